"""What the recipe of the base model rests on: weights off their grid with no answer changed, adapters on rounded weights,
packing, names and questions."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from converters import ggml
from converters.files import writer
from recipes.base import asking, bundle, connector, drawings, finder, heads, kept, language, lora, photos
from recipes.base.finder import Found
from recipes.base.lexicon import Thing
from recipes.base.packing import IGNORE, Packer
from recipes.base.sights import Sights
from recipes.mini.scenes import LABEL, Item, Scene
from tests.conftest import CHECKPOINT

IDS = torch.arange(24).view(2, 12) * 7 % 96


def rounded(values: torch.Tensor, kind: str) -> torch.Tensor:
    blocks = writer.rounding(kind, 1, None)(np.ascontiguousarray(values.detach().numpy()))
    return torch.from_numpy(ggml.dequantise(blocks, kind).reshape(values.shape).copy())


@pytest.fixture
def lm() -> LlamaForCausalLM:
    """A small LM whose matrices lie on the grid of Q4_1 and whose norms have gains, as those of a published file do."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=96, num_key_value_heads=2, tie_word_embeddings=True, **shape)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() == 2:  # columns of uneven length, as those of a trained LM are
                uneven = torch.exp(0.5 * torch.randn(parameter.shape[1], generator=torch.Generator().manual_seed(3)))
                parameter.copy_(rounded(parameter * 5 * uneven, "q4_1"))
            elif "norm" in name:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
    return made


@torch.inference_mode()
def logits(lm: LlamaForCausalLM) -> torch.Tensor:
    return lm(IDS).logits


def kept_share(matrix: torch.Tensor, kind: str = "q4_1") -> float:
    """Which share of a small change is still there after rounding."""
    change = 0.02 * matrix.std() * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(1))
    moved = rounded(matrix + change, kind) - rounded(matrix, kind)
    return float((moved * change).sum() / change.square().sum())


def test_leaving_the_grid_changes_no_logit_and_keeps_the_embedding(lm: LlamaForCausalLM) -> None:
    before, embedding = logits(lm), lm.model.embed_tokens.weight.detach().clone()
    matrices = [layer.mlp.up_proj.weight.detach().clone() for layer in lm.model.layers]
    language.leave_grid(lm)
    assert (logits(lm) - before).abs().max() < 1e-4 * (before.max() - before.min())
    assert torch.equal(lm.model.embed_tokens.weight, embedding) and lm.lm_head.weight is lm.model.embed_tokens.weight
    for layer, matrix in zip(lm.model.layers, matrices, strict=True):
        assert kept_share(matrix) < 0.3, "rounding to the grid that they came from erases a small change"
        attention, mlp = layer.self_attn, layer.mlp
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.down_proj):
            assert 0.7 < kept_share(linear.weight.detach()) < 1.3


def test_adapters_begin_with_nothing_and_vanish_into_the_weights(lm: LlamaForCausalLM) -> None:
    before = logits(lm)
    lora.adapt(lm, rank=4)
    lora.settle(lm, lambda whole: whole)
    assert (logits(lm) - before).abs().max() < 0.02 * (before.max() - before.min()), "weights in use are bfloat16"
    learning = [parameter for parameter in lm.parameters() if parameter.requires_grad]
    assert len(learning) == 2 * 7 * len(lm.model.layers)
    with torch.no_grad():
        for parameter in learning:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    lora.settle(lm, lambda whole: whole)
    learned = logits(lm)
    assert not torch.allclose(learned, before, atol=1e-3)
    merged = logits(lora.merge(lm))
    assert (merged - learned).abs().max() < 0.02 * (before.max() - before.min())
    assert not any(isinstance(module, lora.Adapted) for module in lm.modules())


def test_settled_weights_with_their_adapters_are_what_a_bundle_of_that_type_holds(lm: LlamaForCausalLM) -> None:
    lora.adapt(lm, rank=4)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    lora.settle(lm, lambda whole: rounded(whole, "iq4_nl"))
    for _, _, one in lora.adapted(lm):
        shipped = rounded(one.whole(), "iq4_nl")
        in_use = one.weight.float() + one.b @ one.a
        assert (in_use - shipped).abs().max() < 0.01 * shipped.abs().max()
        assert (shipped - one.whole()).abs().max() > 0.02 * shipped.abs().max(), "rounding is no small thing"


def test_packed_questions_see_the_picture_and_themselves_only() -> None:
    from transformers import AutoTokenizer

    packer = Packer(AutoTokenizer.from_pretrained(CHECKPOINT), image_tokens=3)
    asked = [("what", "what is this?", "a cat"), ("yes", "is it a dog?", "no")]
    both, alone = packer([asked]), packer([asked[1:]])
    prefix = len(packer.before) + 3
    length = alone.ids.shape[1] - prefix
    assert both.ids[0, -length:].tolist() == alone.ids[0, -length:].tolist()
    assert both.positions[0, -length:].tolist() == alone.positions[0, -length:].tolist()
    seen = both.mask[0, 0, -length:] == 0
    assert seen[:, :prefix].all() and not seen[:, prefix:-length].any()
    assert torch.equal(seen[:, -length:], torch.ones(length, length).tril().bool())
    assert both.image[0].sum() == 3 and (both.targets[0, :prefix] == IGNORE).all()


THINGS = [
    Thing("dog", ("dog", "beagle"), ("animal",), "beagle"),
    Thing("banana", ("banana",), ("fruit", "food"), colour="yellow"),
    Thing("stove", ("stove",), ("kitchen appliance",), room="kitchen"),
]


@pytest.mark.parametrize("thing", THINGS)
def test_what_is_asked_of_a_thing_is_true(thing: Thing) -> None:
    asked = asking.ask(thing, THINGS, Random(1), "test", 20)
    answers = {kind: answer for kind, _, answer in asked}
    assert answers["what"] == thing.name and answers["yes"] == "yes" and answers.get("no", "no") == "no"
    assert answers["eat"] == ("yes" if thing.name == "banana" else "no")
    assert answers["animal"] == ("yes" if thing.name == "dog" else "no")
    assert answers.get("which", "") == thing.narrow and answers.get("room", "") == thing.room
    assert answers.get("colour", "") == thing.colour


def test_no_wording_of_a_test_is_trained_on() -> None:
    assert len(asking.WORDINGS) > 10
    for pool in asking.WORDINGS.values():
        assert pool["test"] and not set(pool["train"]) & set(pool["test"])
        assert all(len(set(words)) == len(words) and "" not in words for words in pool.values())


@pytest.mark.parametrize(
    ("rgb", "name"), [((250, 230, 40), "yellow"), ((30, 160, 60), "green"), ((200, 30, 30), "red"), ((20, 20, 22), "black")]
)
def test_the_colour_of_most_of_the_middle(rgb: tuple[int, int, int], name: str) -> None:
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[16:48, 16:48] = rgb
    assert photos.colour(pixels) == name
    pixels[16:48, 16:32] = (40, 60, 220)
    assert photos.colour(pixels) == "", "two halves have no colour"


def test_eight_bits_keep_the_weights_and_the_graph() -> None:
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(128, 64)).astype(np.float32) * np.linspace(0.1, 9, 64, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 128])],
        [helper.make_tensor_value_info("y", 1, [1, 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = np.random.default_rng(1).normal(size=(1, 128)).astype(np.float32)
    small = bundle.eight_bits(model)
    assert len(small.SerializeToString()) < weight.nbytes / 3
    made = onnxruntime.InferenceSession(small.SerializeToString()).run(None, {"x": x})[0]
    assert np.abs(made - x @ weight).max() < 0.02 * np.abs(x @ weight).max()
    onnx.checker.check_model(small)


def test_the_finder_s_layers_are_those_of_the_mini_s_lm(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer, Idefics3ForConditionalGeneration

    from recipes.mini import model as mini
    from recipes.mini.packing import PREFIX

    monkeypatch.setattr(finder, "NEURONS", 768)  # all of them
    own = finder.Finder().eval()
    theirs = Idefics3ForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(CHECKPOINT).encode(PREFIX, add_special_tokens=False)])
    states = torch.randn(1, 64, 256, generator=torch.Generator().manual_seed(0))
    places = torch.arange(ids.shape[1])[None]
    with torch.inference_mode():
        expected = mini.hidden(theirs, states, ids, places, mini.packed_mask(torch.zeros_like(ids)).float())
        x = own.begin(states)
        for layer in own.layers:
            x = layer(x, own.mask)
        made = theirs.model.text_model.norm(x[:, : ids.shape[1]])
    assert (made - expected).abs().max() < 1e-4 * expected.abs().max()


def found(*objects: tuple[str, float, float, float]) -> Found:
    """Names with x, y and side."""
    missing = drawings.MOST - len(objects)
    labels = torch.tensor([[LABEL[name] for name, *_ in objects] + [0] * missing])
    places = torch.tensor([[list(place) for _, *place in objects] + [[0.5, 0.5, 0.1]] * missing])
    return Found(labels, torch.ones(labels.shape), torch.zeros_like(labels), places)


THREE = found(("dog", 0.3, 0.9, 0.3), ("apple", 0.5, 0.5, 0.2), ("dog", 0.9, 0.3, 0.4))


def test_rows_of_what_was_found_are_in_order() -> None:
    thing = THREE.labels > 0
    down, sizes = (
        connector.ordered(THREE.labels, thing, key, 5)[0].tolist() for key in (THREE.places[..., 1], -THREE.places[..., 2])
    )
    dog, apple = LABEL["dog"], LABEL["apple"]
    assert down == [dog, apple, dog, 0, 0] and sizes == [dog, dog, apple, 0, 0]
    assert connector.alike_of(THREE.labels, thing)[0].tolist() == [2, 1, 2, 0, 0, 0]
    assert connector.after_of(thing)[0].tolist() == [3, 2, 1, 0, 0, 0]
    assert connector.part_of(THREE.places)[0].tolist()[:3] == [4, 5, 2]


def test_what_is_found_is_told_in_the_lm_s_words() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    embeddings = torch.randn(len(tokenizer), 32, generator=torch.Generator().manual_seed(0))
    told = connector.Told(embeddings, tokenizer)
    with torch.inference_mode():
        said = told(THREE)[0]
        nothing = told(found())[0]
    assert said.shape == (connector.TOLD, 32) and not nothing[: connector.NAME].any()
    apple = connector.vectors_of("apple", embeddings, tokenizer, connector.NAME)
    each = connector.NAME + 2
    assert torch.allclose(said[each : each + connector.NAME], apple)
    digit = embeddings[tokenizer("3", add_special_tokens=False).input_ids[-1]]
    assert torch.allclose(said[-1], digit), "three things"

    def vectors(name: str) -> torch.Tensor:
        return connector.vectors_of(name, embeddings, tokenizer, connector.NAME)

    edges = said[-1 - len(connector.EDGES) * connector.NAME : -1].unflatten(0, (len(connector.EDGES), connector.NAME))
    furthest = edges - told.edges.detach()
    assert torch.allclose(furthest, torch.stack([vectors(name) for name in ("dog",) * 5 + ("apple",)]), atol=1e-6)


def test_a_text_is_told_in_one_piece() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    embeddings = torch.randn(len(tokenizer), 32, generator=torch.Generator().manual_seed(0))
    told = connector.Told(embeddings, tokenizer)
    with torch.inference_mode():
        said = told(found(*((letter, 0.0, 0.0, 0.0) for letter in "noon")))[0]
    first = drawings.MOST * (connector.NAME + 2)
    letters = said[first : first + 4] - told.after.detach()[[4, 3, 2, 1]]
    spelled = [embeddings[tokenizer(letter, add_special_tokens=False).input_ids[-1]] for letter in "noon"]
    assert torch.allclose(letters, torch.stack(spelled), atol=1e-6)
    assert torch.allclose(said[first + 4], told.after.detach()[0]) and torch.equal(said[-1], torch.zeros(32))


def test_objects_stand_from_left_to_right_and_letters_in_their_order() -> None:
    items = (Item("dog", 90, 20, 30, "brown"), Item("apple", 20, 60, 30, "red"))
    labels, colours, places = drawings.objects_of(Scene("things", items))
    assert labels == [LABEL["apple"], LABEL["dog"], 0, 0, 0, 0] and places[0] == [20 / 128, 60 / 128, 30 / 128]
    assert colours[0] == 1 + drawings.scenes.COLOURS.index("red")
    labels, _, _ = drawings.objects_of(Scene("writing", (Item("price", 9, 9, 60),), "$4.50"))
    assert labels == [*(LABEL[character] for character in "$4.50"), 0]


def test_views_of_a_photo_are_left_out_together() -> None:
    rng = np.random.default_rng(0)
    about = [{"part": "train", "kind": "kiwi", "photo": number // 4} for number in range(48)]
    seen = Sights(rng.normal(size=(48, 8)).astype(np.float16), np.zeros((48, 1, 1)), about)
    for name in ("grocery", "clothing"):
        made = heads.folds(name, seen).reshape(12, 4)
        assert (made == made[:, :1]).all() and len(set(made[:, 0])) == heads.FOLDS


def test_what_is_kept_in_eight_bits_is_what_was_learned() -> None:
    values = {"large": torch.randn(80, 64, generator=torch.Generator().manual_seed(0)), "small": torch.randn(5)}
    stored = kept.coded(values)
    assert stored["large"].dtype == torch.int8
    back = kept.decoded(stored)
    assert set(back) == set(values) and torch.equal(back["small"], values["small"])
    assert ((back["large"] - values["large"]).abs() <= values["large"].abs().amax(1, keepdim=True) / 254 + 1e-6).all()
    again = kept.decoded(kept.coded(back))
    assert torch.allclose(again["large"], back["large"]), "to be kept once more changes nothing"
