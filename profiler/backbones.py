"""What model families keep beyond the shapes that closed forms are read from.

The forms of a method come from a few shapes (``profiler.shapes``). Other families compute other things between the same
matrices: dropout, more norms, capped logits, activations written out. One method that sends gradients through every block and
trains nothing there, prompt tuning, is dry-run on every family of the catalogue and on the shapes; the difference is what
the family adds. Where it does not go, on images, LN tuning takes its place, which keeps a little more for each norm; so it
does beside it on decoders with more norms than the shape's, for methods that train them.
``kb/profiles/backbones.json`` holds both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from kb.architecture import from_config
from kb.catalogue import load_models
from kb.closed_form import ALONE, BACKBONES, NORMED, WINDOWED, Backbone, Backbones, backbone_key, shape_of, windowed_key
from kb.files import put
from profiler import fit
from profiler.profiles import instant, plain, versions
from profiler.settings import Settings
from profiler.shapes import FUSED, GROUP, HEAD, INNER, KV, MANY, OWN, POSITIONS, SHAPES, TWIN, VOCABULARY, Shape

MADE_BY = "python -m profiler.backbones"
Probe = tuple[str, Mapping[str, str]]
"""A method, and its knobs that become letters."""
_NORMS: Probe = ("ln_tuning", {})
_PROBE: Probe = ("prompt_tuning", {"p": "prompt_length"})
PROBES = {"vision": _NORMS}  # by kind of model, where it is another
_FEW = 3  # blocks
_SETTINGS = tuple(product((False, True), repeat=2))  # whether activations are recomputed, and autocast
_DEPTHS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
)
_HIDDEN = ("hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim")
_INNER = ("intermediate_size", "d_ff", "ffn_dim", "n_inner", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads")
_KEYS = ("num_key_value_heads", "num_kv_heads")
_HEAD = ("head_dim", "d_kv")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_source_positions", "max_target_positions")
_ALTERNATING = (
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "modernbert",
    "olmo3",
)  # some layers have a window; all are run without


def relabelled(config: Mapping[str, Any], depth: int, like: Shape, alone: bool = False) -> dict[str, Any]:
    """``config`` with the labelled widths of ``like``, and ``depth`` layers that are all of one kind.

    ``alone``: no key serves several queries. Of a model of text and images the text decoder is relabelled.
    """
    if "text_config" in config:
        inner = relabelled(config["text_config"], depth, like, alone)
        return {**config, "text_config": inner, "tie_word_embeddings": True}
    own = own_heads(config)
    keys, heads = (KV if own else MANY).value, (KV if own else MANY).value * (TWIN if _joins(config) else GROUP).value
    sizes = Sizes(
        depth=depth,
        hidden=OWN.value if own else heads * HEAD.value,
        inner=INNER.value,
        heads=heads,
        keys=heads if alone else keys,
        head=HEAD.value,
        positions=POSITIONS.value,
        vocabulary=VOCABULARY.value,
    )
    found = resized(config, sizes)
    if like.kind == "vision":
        image = like.config(depth)
        found |= {name: image[name] for name in ("image_size", "patch_size") if name in found and name in image}
    if config.get("model_type") in _ALTERNATING:
        found["layer_types"] = ["full_attention"] * depth
    return found | {"tie_word_embeddings": True, "pad_token_id": 0}


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model, whatever its family calls them."""

    depth: int
    hidden: int
    inner: int
    heads: int
    keys: int  # heads of keys
    head: int  # width of a head
    positions: int
    vocabulary: int


def resized(config: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """``config`` with other sizes; what is no size, and what a family does not have, stays as it is."""
    values: dict[str, Any] = dict.fromkeys(_DEPTHS, sizes.depth)
    values |= dict.fromkeys(_HIDDEN, sizes.hidden) | dict.fromkeys(_INNER, sizes.inner)
    values |= dict.fromkeys(_HEADS, sizes.heads) | dict.fromkeys(_POSITIONS, sizes.positions)
    values |= dict.fromkeys(_KEYS, sizes.keys) | dict.fromkeys(_HEAD, sizes.head) | {"vocab_size": sizes.vocabulary}
    found = {name: values.get(name, value) for name, value in config.items()}
    if own_heads(config) and "d_kv" not in config:
        found["head_dim"] = sizes.head
    rope = config.get("rope_parameters") or {}
    if "mrope_section" in rope:  # of a half of each head: what turns with time, height and width
        sections = [sizes.head // 8, 3 * sizes.head // 16, 3 * sizes.head // 16]
        found["rope_parameters"] = {**rope, "mrope_section": sections}
    return found


def own_heads(config: Mapping[str, Any]) -> bool:
    """Whether heads may be of any size, and not only the hidden size divided by their number."""
    config = config.get("text_config", config)
    known = AutoConfig.for_model(str(config["model_type"]))
    settable = hasattr(known, "head_dim") and not isinstance(getattr(type(known), "head_dim", None), property)
    return "d_kv" in config or "head_dim" in config or settable


def families() -> dict[str, tuple[Mapping[str, Any], Shape]]:
    """A configuration and the nearest shape of every family in the catalogue, by its key."""
    found: dict[str, tuple[Mapping[str, Any], Shape]] = {}
    for model in load_models().values():
        config = model.config
        shape = from_config(config)
        if "text_config" in config and (shape.kind != "decoder" or _alone(config["text_config"])):
            config = {"model_type": config["model_type"], **config["text_config"]}
        key, like = backbone_key(shape), SHAPES[shape_of(shape)]
        if not shape.sliding_window or config["model_type"] in _ALTERNATING:
            found.setdefault(key, (config, like))
        else:  # the window has to be shorter or longer than the labelled sequences
            found.setdefault(key, ({**config, "sliding_window": None}, like))
            window = {**config, "sliding_window": like.widths["s"].value // 2}
            found.setdefault(f"{key}{WINDOWED}", (window, like))
            found.setdefault(windowed_key(shape), (window, like))
    return found


def _alone(text: Mapping[str, Any]) -> bool:
    """Whether transformers builds the text decoder of a model of text and images by itself."""
    return type(AutoConfig.for_model(str(text["model_type"]))) in AutoModelForCausalLM._model_mapping


def backbones(known: Backbones | None = None, only: Collection[str] = ()) -> Backbones:
    """The probe on every shape and every family; families that cannot be run are listed with the reason.

    Where some was ``known`` before, only the families named are run, and the others kept.
    """
    forms = [] if known is None else [one for one in known.forms if one.family.removesuffix(NORMED) not in only]
    done = {(one.family, (one.checkpointing, one.autocast)): one for one in forms}
    alike, refused = ({}, {}) if known is None else (dict(known.alike), dict(known.refused))
    for name, config_of, like in _all():
        if known is not None and name not in only:
            continue
        alike.pop(name, None)
        for key, probe, run in _runs(name, config_of, like):
            refused.pop(key, None)
            try:
                done[key, run] = _backbone(key, config_of, like, probe, run)
            except (ValueError, RuntimeError, TypeError, AttributeError, KeyError, IndexError, AssertionError) as error:
                refused[key] = str(error).splitlines()[0][:200]
        if name != like.name and all(_same(done.get((name, run)), done.get((like.name, run))) for run in _SETTINGS):
            alike[name] = like.name
            done = {key: one for key, one in done.items() if key[0] != name}
    found = tuple(sorted(done.values(), key=lambda one: (one.family, one.checkpointing, one.autocast)))
    return Backbones(made_by=MADE_BY, versions=versions(), forms=found, alike=alike, refused=refused)


def _backbone(key: str, config_of: Any, like: Shape, probe: Probe, run: tuple[bool, bool]) -> Backbone:
    """The probe on one family, in one of ``_SETTINGS``."""
    (slug, knobs), (checkpointing, autocast), config = probe, run, config_of(_FEW)
    shape = Shape(like.name, like.kind, config_of, _widths(like, config), _heads(config), like.free)
    settings = Settings(checkpointing=checkpointing, autocast=autocast)
    read = fit.fit(fit.Trial(shape, slug, settings, "ours", knobs, {}), by_phase=True)
    return Backbone(
        family=key,
        checkpointing=checkpointing,
        autocast=autocast,
        instants=tuple(instant(one, plain) for one in read.instants),
        spare=plain(read.spare),
        flops=plain(read.work["flops"]),
        flops_fp32=plain(read.work["flops_fp32"]),
        moved=plain(read.work["bytes"]),
        kernels=plain(read.work["kernels"]),
    )


def _runs(name: str, config_of: Any, like: Shape) -> Iterator[tuple[str, Probe, tuple[bool, bool]]]:
    """The runs of a family: its key, the probe, one of ``_SETTINGS``. Where it has more norms, also with these trained."""
    probe = PROBES.get(like.kind, _PROBE)
    more = name == "decoder" or (like.name == "decoder" and probe == _PROBE and _more_norms(config_of(_FEW)))
    for key, method in ((name, probe), *(((f"{name}{NORMED}", _NORMS),) if more else ())):
        for run in _SETTINGS:
            yield key, method, run


def _more_norms(config: Mapping[str, Any]) -> bool:
    """Whether a decoder has more norms than two in a block and one behind all."""
    return sum(one.count for one in from_config(config).norm_groups) > 2 * _FEW + 1


def _same(family: Backbone | None, shape: Backbone | None) -> bool:
    """Whether both say the same, whatever they are called and in whatever order."""
    if family is None or shape is None:
        return False
    one, other = (sorted(each.instants, key=repr) for each in (family, shape))
    return one == other and family.model_copy(update={"family": shape.family, "instants": shape.instants}) == shape


def _all() -> Iterator[tuple[str, Any, Shape]]:
    for shape in SHAPES.values():
        yield shape.name, shape.config, shape
    for key, (config, like) in families().items():
        alone = ALONE in key
        yield key, lambda depth, config=config, like=like, alone=alone: relabelled(config, depth, like, alone), like


def _widths(like: Shape, config: Mapping[str, Any]) -> Mapping[str, Any]:
    own = own_heads(config)
    given = {name: width for name, width in like.widths.items() if name not in ("d", "kv")}
    joined = {"g": TWIN, "g2": FUSED} if _joins(config) else {}
    return {**({"d": OWN} if own else {}), **given, "kv": KV if own else MANY, **joined}


def _joins(config: Mapping[str, Any]) -> bool:
    """Whether queries, keys and values of a family come from one matrix."""
    return any(one.fused for one in from_config(config).linear_groups if one.site == "attention.query")


def _heads(config: Mapping[str, Any]) -> str:
    return "d_q" if own_heads(config) else "d"


def write(found: Backbones) -> None:
    """Writes the file by way of a temporary name."""
    put(BACKBONES, json.dumps(found.model_dump(mode="json"), indent=1) + "\n")


def main() -> None:
    """Runs all families, or those that are named, and keeps what the file says of the others."""
    parser = argparse.ArgumentParser(prog=MADE_BY, description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="only these, by their key")
    only = parser.parse_args().families
    unknown = sorted({*only} - {name for name, _, _ in _all()})
    if unknown:
        parser.error(f"there is no family {unknown[0]!r}; there are {', '.join(name for name, _, _ in _all())}")
    write(backbones(Backbones.model_validate_json(BACKBONES.read_bytes()), only) if only else backbones())


if __name__ == "__main__":
    main()
