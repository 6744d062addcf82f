"""`python -m hf_rws.cli`, the same as `hf-rws`; for launchers: `accelerate launch -m hf_rws.cli train ...`."""

from hf_rws.cli import main

if __name__ == "__main__":
    main()
