"""Messages of the library, on the command line: they name options, and only options that there are."""

import click
import pytest

from hf_rws.cli.wording import in_options


@click.command()
@click.option("--image-size", type=int)
@click.option("--scale", "scales", multiple=True)
@click.option("--dataset-config")
@click.option("--token")
@click.option("--lr")
@click.option("--projection")
@click.option("--strict", is_flag=True)
@click.option("--revision", "-r")
def command():
    pass


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("give an image_size to bring them to one size", "give an --image-size to bring them to one size"),
        ("log in, or pass token=", "log in, or pass --token"),
        ("log in, or pass token=; then", "log in, or pass --token; then"),
        ("choose one by config=, of a, b", "choose one by --dataset-config, of a, b"),
        ("lr must be above 0, got -1", "--lr must be above 0, got -1"),
        ("a lower lr may do", "a lower lr may do"),
        ("scales must be numbers", "--scale must be numbers"),
        ("only with projection=None: it needs", "only with --projection none: it needs"),
        ("snow: another base (strict=True)", "snow: another base (--strict)"),
        ("revision='v1' is for a base", "--revision 'v1' is for a base"),
        ("image_size.", "--image-size."),
        # not an argument, or not this command's
        ("label_column is not there", "label_column is not there"),
        ("the folder 'image_size' is empty", "the folder 'image_size' is empty"),
        ("a/image_size/b.png and image_size/b.png", "a/image_size/b.png and image_size/b.png"),
        ("use image_size() or image_size.old", "use image_size() or image_size.old"),
        ("my_image_size is another", "my_image_size is another"),
        ("the token must be valid", "the --token must be valid"),
    ],
)
def test_arguments_become_options(message, expected):
    assert in_options(message, command) == expected
