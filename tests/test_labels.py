"""Class names: matched whatever their order, of a part of the model's classes, of ImageNet's; refused where unclear."""

import warnings
from dataclasses import replace

import pytest
import timm
import torch
from timm.data import ImageNetInfo
from torch import nn

from hf_rws import evaluate
from hf_rws.data.sets import ImageSet
from hf_rws.errors import OptionError, RWSWarning
from hf_rws.evaluation import accuracy, match_classes
from tests.helpers import CLASSES, image_set, pixels
from tests.test_evaluation import Reddest


def knows(names=None, count=None, descriptions=None):
    """A model with these class names, that answers each image with the number in its first pixel."""
    asked = FirstPixel()
    asked.num_classes = len(names) if count is None else count
    if names is not None:
        asked.pretrained_cfg["label_names"] = names
    if descriptions is not None:
        asked.pretrained_cfg["label_descriptions"] = descriptions
    return asked


class FirstPixel(Reddest):
    def forward(self, images):
        scores = torch.zeros(len(images), self.num_classes)
        scores[torch.arange(len(images)), (255 * images[:, 0, 0, 0]).round().long()] = 1
        return scores * self.weight


def shown(numbers):
    """Images that `FirstPixel` takes for these of the model's classes."""
    images = torch.zeros(len(numbers), 3, 32, 32, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(numbers)
    return images


NAMES = ["airplane", "bird", "polar bear", "cat", "dog"]


@pytest.mark.parametrize(
    "classes",
    [NAMES, NAMES[::-1], NAMES[:3], NAMES[2:], ["dog", "airplane"], ["Polar_Bear", " CAT", "BIRD"], ["polar-bear"]],
)
def test_whatever_the_order_or_the_subset(classes):
    """The law: a model that knows every image has accuracy 1, however the dataset numbers its classes."""
    asked = knows(NAMES)
    spelled = [" ".join(name.replace("_", " ").replace("-", " ").lower().split()) for name in classes]
    numbers = [NAMES.index(name) for name in spelled]
    images = ImageSet(shown(numbers), torch.arange(len(classes)), tuple(classes))
    found = evaluate(asked, images, [])
    assert found["clean"] == 1
    assert accuracy(asked, images) == 1
    wrong = replace(images, images=shown([(number + 1) % 5 for number in numbers]))
    assert evaluate(asked, wrong, [])["clean"] == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_may_be_narrow_integers(dtype):
    """The number of a pair of classes (40 * 40) is more than a narrow integer holds."""
    names = [f"class {letter}{digit}" for letter in "abcd" for digit in range(10)]
    images = ImageSet(shown(range(40)), torch.arange(39, -1, -1), tuple(names[::-1]))
    narrow = replace(images, labels=images.labels.to(dtype))
    assert evaluate(knows(names), narrow, [])["clean"] == evaluate(knows(names), images, [])["clean"] == 1


def test_two_classes_for_one_of_the_model_are_refused_and_can_be_told():
    asked = knows(["cat", "dog", "bird"])
    with pytest.raises(OptionError, match=r"pets: its classes 'Cat' and 'cat' are both called like the model's 'cat'"):
        match_classes(asked, ["Cat", "cat"], name="pets")
    assert match_classes(asked, ["Cat", "cat"], class_map={"Cat": "cat"}).right == ((0,), (0,))


def test_the_answer_is_chosen_among_all_classes_of_the_model():
    """An image of a class that the dataset has, taken for one that it has not, is wrong; the table says so."""
    images = ImageSet(shown([3, 4, 0, 1]), torch.tensor([0, 1, 0, 1]), ("cat", "dog"))
    found = evaluate(knows(NAMES), images, [])
    assert found.rows[0].right.tolist() == [True, True, False, False]
    assert found.notes == ("classes matched by name: 2 of the model's 5 classes; it chooses among all of them",)
    assert found.notes[0] in found.to_markdown()


def test_the_same_classes_in_the_same_order_need_no_words():
    assert match_classes(knows(NAMES), NAMES).right is None
    assert evaluate(knows(NAMES), ImageSet(shown([0]), torch.tensor([0]), tuple(NAMES)), []).notes == ()


def test_names_with_gaps_and_descriptions_are_read():
    """timm's other forms of `label_names`, and `label_descriptions`."""
    assert match_classes(knows({"0": "cat", "2": "dog"}, count=3), ["dog", "cat"]).right == ((2,), (0,))
    described = knows(["/m/01", "/m/02"], descriptions={"/m/01": "tabby, house cat", "/m/02": "dog"})
    assert match_classes(described, ["dog", "House cat"]).right == ((1,), (0,))


# --- ImageNet ---

IMAGENET = timm.create_model("test_resnet")
SOME = [134, 0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # of a folder of eleven, in another order


def test_imagenets_synsets_and_words_are_names():
    info = ImageNetInfo("imagenet-1k")
    synsets = [info.index_to_label_name(number) for number in SOME]
    assert match_classes(IMAGENET, synsets).right == tuple((number,) for number in SOME)
    whole = [info.index_to_description(number) for number in SOME[1:]]
    first = [words.split(",")[0].upper().replace(" ", "_") for words in whole]
    for names in (whole, first):
        assert match_classes(IMAGENET, names).right == tuple((number,) for number in SOME[1:])


def test_all_thousand_in_imagenets_own_order_are_as_they_are():
    info = ImageNetInfo("imagenet-1k")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for names in (info.label_names(), info.label_descriptions()):
            assert match_classes(IMAGENET, names).right is None


def test_a_word_for_two_classes_is_refused_and_can_be_told():
    with pytest.raises(OptionError, match=r"'crane' may be several .*n02012849 \(134\), n03126707 \(517\).*class_map"):
        match_classes(IMAGENET, ["crane", "tench"])
    assert match_classes(IMAGENET, ["crane", "tench"], class_map={"crane": "n03126707"}).right == ((517,), (0,))


def test_small_and_capital_letters_count_where_they_tell_classes_apart():
    """A Cardigan is a dog, a cardigan is none; 264 and 474."""
    assert match_classes(IMAGENET, ["cardigan", "Cardigan"]).right == ((474,), (264,))
    with pytest.raises(OptionError, match="'CARDIGAN' may be several"):
        match_classes(IMAGENET, ["CARDIGAN", "tench"])


def test_all_thousand_by_their_first_words():
    """As a file system needs them, "crane_2" where a word is taken: in ImageNet's order, and said where it counts."""
    first = [words.split(",")[0].replace(" ", "_") for words in ImageNetInfo("imagenet-1k").label_descriptions()]
    unique = [name if name not in first[:number] else f"{name}_2" for number, name in enumerate(first)]
    assert (unique[517], len(set(unique))) == ("crane_2", 1000)
    with pytest.warns(RWSWarning, match="'crane_2' is taken for the model's 'n03126707'"):
        assert match_classes(IMAGENET, unique).right is None


def test_words_of_a_model_of_ours_and_synsets_of_a_folder():
    assert match_classes(knows(["goldfish", "tench"]), ["n01440764", "n01443537"]).right == ((1,), (0,))


def test_a_thousand_classes_of_something_else_are_taken_in_order():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert match_classes(IMAGENET, [f"street {number}" for number in range(1000)]).right is None
    with pytest.raises(OptionError, match="2 of its 2 classes are none of the model's 1,000: 'street 1', 'street 2'"):
        match_classes(IMAGENET, ["street 1", "street 2"])


# --- where names do not agree ---


def test_a_class_that_the_model_does_not_know_is_refused_before_a_forward_pass():
    asked = Reddest()
    asked.num_classes, asked.pretrained_cfg["label_names"] = 3, ["red", "green", "blue"]
    images = ImageSet(pixels(2), torch.tensor([0, 1]), ("blue", "mauve"), "photos")
    with pytest.raises(OptionError, match=r"1 of its 2 classes are none of the model's 3: 'mauve'; .*class_map"):
        evaluate(asked, images, [])
    assert asked.batches == []


def test_as_many_classes_some_called_otherwise_are_taken_in_order_and_said():
    classes = ["plane", *NAMES[1:]]
    with pytest.warns(RWSWarning, match="do not agree .*'plane' is taken for the model's 'airplane'.*class_map"):
        assert match_classes(knows(NAMES), classes).right is None
    with pytest.raises(OptionError, match="'plane'"):
        match_classes(knows(NAMES), classes[::-1])  # the order is another, so it cannot count


@pytest.mark.parametrize("names", [None, ["0", "1", "2", "3", "4"]])
def test_a_model_without_names(names):
    asked = knows(names, count=5)
    assert match_classes(asked, NAMES).right is None
    with pytest.warns(RWSWarning, match="the model 5, and the model's have no names, so they are taken by their order"):
        assert match_classes(asked, ["cat", "dog"]).right is None


def test_a_dataset_without_names():
    assert match_classes(knows(NAMES), ()).right is None
    assert match_classes(knows(NAMES), ["0", "1", "2", "3", "4"]).right is None
    found = match_classes(knows(NAMES), ["4", "2"])
    assert found.right == ((4,), (2,))
    assert found.note.startswith("classes matched by number: 2 of the model's 5 classes")
    with pytest.warns(RWSWarning, match="the model 5, and its have no names, so they are taken by their order"):
        assert match_classes(knows(NAMES), ["1880", "1881"]).right is None
    folders = sorted(map(str, range(11)))  # as a folder of folders lists them
    with pytest.warns(RWSWarning, match="not in their order: '10' is taken for the model's class 2"):
        assert match_classes(knows(None, count=11), folders).right is None


def test_numbers_of_classes_that_were_kept_in_the_training():
    """`--classes 50-54` in the training and now: both sides call them by the numbers that they had."""
    kept = [str(number) for number in range(50, 55)]
    assert match_classes(knows(kept), kept).right is None
    assert match_classes(knows(kept), kept[::-1]).right == tuple((4 - label,) for label in range(5))
    assert match_classes(knows(None, count=5), kept).right is None


# --- a map of one's own ---


def test_a_class_map_says_what_is_meant():
    asked = knows(NAMES)
    found = match_classes(asked, ["plane", "dog"], class_map={"plane": "airplane"})
    assert found.right == ((0,), (4,))
    assert found.note == "classes matched by class_map: 2 of the model's 5 classes; it chooses among all of them"
    assert match_classes(asked, ["pet", "bird"], class_map={"pet": ["cat", 4]}).right == ((3, 4), (1,))
    assert match_classes(asked, ["pet"], class_map={0: "4"}).right == ((4,),)
    images = ImageSet(shown([3, 4, 1]), torch.tensor([0, 0, 0]), ("pet",))
    assert evaluate(asked, images, [], class_map={"pet": ["cat", "dog"]}).rows[0].right.tolist() == [True, True, False]


def test_a_class_map_of_arrays_goes_by_numbers():
    found = evaluate(knows(NAMES), (shown([3, 1, 0]), [0, 1, 3]), [], class_map={0: "cat"})
    assert found.rows[0].right.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"car": "cat"}, "class_map names 'car', which the dataset does not have; it has: dog, plane"),
        ({"plane": "kite"}, "'kite', for 'plane', may be none of the model's classes"),
        ({"plane": 5}, "5, for 'plane', may be none"),
        ({"plane": 1.5}, "must give names or numbers of the model's classes for 'plane'"),
        ({"plane": []}, "names no class of the model's for 'plane'"),
        ({}, "class_map must map names"),
        (["plane"], "class_map must map names"),
    ],
)
def test_a_class_map_that_makes_no_sense(given, message):
    with pytest.raises(OptionError, match=message):
        match_classes(knows(NAMES), ["dog", "plane"], class_map=given)


# --- where names come from ---


def test_labels_outside_the_classes_of_their_own_images():
    images = replace(image_set(4), labels=torch.tensor([0, 1, 2, 4]))
    with pytest.raises(OptionError, match="labels must be 0 to 3, as toy has 4 classes; there are labels from 0 to 4"):
        evaluate(Reddest(), images, [])


def test_what_is_no_timm_model_is_taken_by_numbers():
    assert match_classes(nn.Linear(1, 1), CLASSES).right is None
