"""The main job in one command, the same as `hf-rws quickstart`."""

from hf_rws.cli import quickstart, run

if __name__ == "__main__":
    run(quickstart)
