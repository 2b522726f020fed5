"""What LLaMA-Factory calls the template of a conversation, by the repository of a model that was tuned to talk.

Source: ``src/llamafactory/extras/constants.py`` of LLaMA-Factory 0.9.5, which lists repositories with their templates.
"""

from __future__ import annotations

import re

_TEMPLATES: tuple[tuple[str, str], ...] = (
    (r"meta-llama/Llama-2-.+", "llama2"),
    (r"meta-llama/(?:Meta-)?Llama-3(?!.*(?:Vision|Guard)).+", "llama3"),
    (r"meta-llama/Llama-4-.+", "llama4"),
    (r"Qwen/(?:Qwen(?:1\.5|2|2\.5)(?!.*(?:VL|Audio|Omni))|QwQ)-.+", "qwen"),
    (r"Qwen/(?:Qwen2(?:\.5)?-VL|QVQ)-.+", "qwen2_vl"),
    (r"Qwen/Qwen3-VL-.+-Instruct", "qwen3_vl_nothink"),
    (r"Qwen/Qwen3-VL-.+-Thinking", "qwen3_vl"),
    (r"Qwen/Qwen3-(?:Next-)?\d[^/]*-Instruct.*", "qwen3_nothink"),
    (r"Qwen/Qwen3-(?:Next-)?\d.+", "qwen3"),
    (r"google/gemma-(?:1\.1-)?[27]b-it", "gemma"),
    (r"google/gemma-(?:2-|3-(?:270m|1b)).+", "gemma2"),
    (r"google/gemma-3-.+", "gemma3"),
    (r"mistralai/(?:Mistral-7B|Mixtral)-.+", "mistral"),
    (r"mistralai/(?:Ministral-8B|Mistral-Nemo)-.+", "ministral"),
    (r"mistralai/Mistral-Small-24B-.+", "mistral_small"),
    (r"microsoft/Phi-3(?:\.5)?-(?:mini|medium)-.+", "phi"),
    (r"microsoft/Phi-4-mini-.+", "phi4_mini"),
    (r"microsoft/phi-4", "phi4"),
    (r"ibm-granite/granite-3\.[0-3]-.+", "granite3"),
    (r"openai/gpt-oss-.+", "gpt_oss"),
    (r"tiiuae/falcon-.+", "falcon"),
    (r"HuggingFaceTB/SmolLM2-.+", "smollm2"),
    (r"01-ai/Yi-.+-Chat", "yi"),
    (r"deepseek-ai/DeepSeek-R1-Distill-.+", "deepseekr1"),
    (r"deepseek-ai/deepseek-coder-.+", "deepseekcoder"),
    (r"lmsys/vicuna-.+", "vicuna"),
    (r"HuggingFaceH4/zephyr-.+", "zephyr"),
)
_READ = tuple((re.compile(repository), name) for repository, name in _TEMPLATES)


def llama_factory_template(repository: str) -> str | None:
    """The name of the template; ``None`` where LLaMA-Factory is not known to list the model, as for a tune of somebody else."""
    return next((name for pattern, name in _READ if pattern.fullmatch(repository)), None)
