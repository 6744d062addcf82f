"""The main job in one command, the same as `hf-rws quickstart`."""

from hf_rws.cli import run
from hf_rws.cli.measuring import quickstart

if __name__ == "__main__":
    run(quickstart)
