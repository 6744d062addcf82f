"""The command `hf-rws`, and `python -m hf_rws`: what imports the rest only when Ctrl-C is looked after."""

from hf_rws._interrupts import stop_within_imports


def main() -> None:
    """The entry point `hf-rws`."""
    stop_within_imports()

    from hf_rws import cli

    cli.main()


if __name__ == "__main__":
    main()
