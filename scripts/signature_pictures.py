"""Pictures of a study's signatures: cosines between them, and where robust models differ from the standard one.

python scripts/signature_pictures.py study-vgg16_bn_gap-0 --output-dir scripts/results
"""

import argparse
from pathlib import Path

from hf_rws import plots
from hf_rws.extraction import relative_differences
from hf_rws.signature.signature import similarity
from hf_rws.study.layout import StudyFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder that scripts/train_study.py left")
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    study = StudyFolder(options.study)
    signatures = list(study.signatures(bits=None))
    base = study.base()
    curves = {name: relative_differences(study.robust(name), base) for name in study.corruptions}
    options.output_dir.mkdir(parents=True, exist_ok=True)
    plots.similarity(similarity(signatures), study.corruptions, save=options.output_dir / "similarity.png")
    plots.layer_differences(curves, save=options.output_dir / "layers.png")
    for name, values in curves.items():
        print(name, *(f"{value:.3f}" for value in values), sep="\t")


if __name__ == "__main__":
    main()
