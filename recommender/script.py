"""A complete training script for Hugging Face PEFT: what a plan says, as a file that runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kb.architecture import Architecture
from kb.schema import Method
from kb.symbol import advised, arguments, attaching, peft_fields, shipped
from recommender.answer import Plan
from recommender.experts import PUBLISHED_IN_FOUR_BITS
from recommender.modules import SENSES, is_pattern, module_names, pattern
from recommender.reading import Half
from recommender.variant import conversational


class Job(NamedTuple):
    """What is to be trained, and how."""

    method: Method
    model: Architecture
    model_id: str  # of the Hugging Face hub, or a placeholder
    plan: Plan
    rate: float
    epochs: float
    examples: int | None = None
    roomy: bool = False  # whether twice the memory that is predicted fits
    half: Half = "bf16"  # the 16-bit type in which the card computes

    @property
    def dtype(self) -> str:
        """That type in torch's words."""
        return {"bf16": "torch.bfloat16", "fp16": "torch.float16"}[self.half]


class _Head(NamedTuple):
    """How a kind of model is loaded and fed."""

    loader: str
    task: str  # PEFT's word
    rows: str  # what a line of the data holds
    reader: str  # tokenizer or image processor
    encode: str
    collator: str


_PAIRS = '"prompt" and "completion"'
_TOKENIZER = """tokenizer = AutoTokenizer.from_pretrained(MODEL)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
"""
_HEADS = {
    "decoder": _Head(
        "AutoModelForCausalLM",
        "CAUSAL_LM",
        _PAIRS,
        _TOKENIZER,
        """    prompt = tokenizer(row["prompt"]).input_ids
    answer = tokenizer(row["completion"] + tokenizer.eos_token, add_special_tokens=False).input_ids
    ids = (prompt + answer)[:LONGEST]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ([-100] * len(prompt) + answer)[:LONGEST]}
""",
        "DataCollatorForSeq2Seq(tokenizer)",
    ),
    "encoder_decoder": _Head(
        "AutoModelForSeq2SeqLM",
        "SEQ_2_SEQ_LM",
        _PAIRS,
        _TOKENIZER,
        """    ids = tokenizer(row["prompt"], truncation=True, max_length=LONGEST)
    return {**ids, "labels": tokenizer(row["completion"], truncation=True, max_length=LONGEST).input_ids}
""",
        "DataCollatorForSeq2Seq(tokenizer, model=model)",
    ),
    "encoder": _Head(
        "AutoModelForSequenceClassification",
        "SEQ_CLS",
        '"text" and "label", a whole number from 0',
        _TOKENIZER,
        """    return {**tokenizer(row["text"], truncation=True, max_length=LONGEST), "labels": row["label"]}
""",
        "DataCollatorWithPadding(tokenizer)",
    ),
}
_SIGHTED = "AutoModelForImageTextToText"
"""Loads a decoder with its eyes: the class for text alone leaves them out or does not know it."""
_TURNS = """    said = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    asked, whole = (
        tokenizer.apply_chat_template(said[:turns], tokenize=False, add_generation_prompt=turns == 1) for turns in (1, 2)
    )
    asked = commonprefix([asked, whole])
    prompt, answer = (
        tokenizer(text, add_special_tokens=False).input_ids for text in (asked, whole.removeprefix(asked))
    )
    ids = (prompt + answer)[:LONGEST]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ([-100] * len(prompt) + answer)[:LONGEST]}
"""
"""A row as two turns in the template of a model that was tuned to talk; some templates add to the question what answers lack."""
_OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_fused": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "adamw_paged_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}
"""Our optimizers in the words of transformers, which axolotl and LLaMA-Factory share."""


def optimizer_word(optimizer: str) -> str:
    """An optimizer of ours in the words of transformers."""
    return _OPTIMIZERS[optimizer]


class Attached(NamedTuple):
    """How PEFT is told of a method."""

    kind: str  # configuration class
    arguments: Mapping[str, object]
    maker: str | None  # function that makes the optimizer, where the method is one


def attached(method: Method, model: Architecture, sites: tuple[str, ...] = ()) -> Attached | None:
    """PEFT's configuration class for a record with our advice and this model's layers; ``None`` if it ships none.

    ``sites`` are the places to adapt, where they are not those of the record.
    """
    entry = shipped(method, "peft")
    named = None if entry is None else attaching(entry.symbol)
    if named is None or named.kind not in peft_fields():
        return None
    fields = peft_fields()[named.kind]
    values = arguments(named.arguments, advised(method), fields)
    names = module_names(model, [site for site in sites or method.mechanism.where if site != "norm"])
    if names and "target_modules" in fields:
        values["target_modules"] = _targets(names)
    if "feedforward_modules" in fields:
        values["feedforward_modules"] = _targets(module_names(model, ("mlp.down",)) or ())
    if model.sighted and "exclude_modules" in fields:
        values["exclude_modules"] = SENSES
    if "adapter_layers" in fields:
        values["adapter_layers"] = min(model.layers, int(str(values.get("adapter_layers", model.layers))))
    if "task_type" in fields:
        values["task_type"] = _HEADS[model.kind].task if model.kind in _HEADS else None
    return Attached(named.kind, values, named.optimizer)


def _targets(names: tuple[str, ...]) -> object:
    if names == ("all-linear",):
        return names[0]
    return pattern(names) if is_pattern(names) else list(names)


def snippet(of: Attached) -> str:
    """The lines that attach the method."""
    written = ", ".join(f"{name}={_literal(value)}" for name, value in of.arguments.items() if value is not None)
    return f"from peft import {of.kind}, get_peft_model\n\nmodel = get_peft_model(model, {of.kind}({written}))\n"


def _literal(value: object) -> str:
    if isinstance(value, str):
        return f'r"{value}"' if "\\" in value else f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)


def script(job: Job, of: Attached) -> str | None:
    """The training script of a job; ``None`` where the model's kind has none, or published weights cannot be packed again."""
    head, plan = _HEADS.get(job.model.kind), job.plan
    quantised = plan.storage != "bf16"
    if head is None or (quantised and _published_packed(job)):
        return None
    if job.model.sighted:
        head = head._replace(loader=_SIGHTED)
    talks = head.task == "CAUSAL_LM" and conversational(job.model_id)
    head = head._replace(encode=_TURNS) if talks else head
    scheduled = "total_step" in of.arguments
    words = ", ".join(
        f"{name}={_literal(value)}"
        for name, value in of.arguments.items()
        if name != "total_step" and value is not None
    )
    words += ", total_step=STEPS" if scheduled else ""
    return "".join(
        (
            f'"""{job.method.name} on {job.model_id}, written by PEFT Atlas. Each line of the data is JSON with {head.rows}{_AS_TURNS if talks else ""}.{_launch(plan)}"""\n\n',
            f"import json\nimport sys\n{_PREFIX if talks else ''}from pathlib import Path\n\nimport torch\n",
            "from accelerate import PartialState\n" if quantised and plan.gpus > 1 and plan.sharding == "none" else "",
            _imports(job, head, of, scheduled),
            f'\nMODEL = sys.argv[1] if len(sys.argv) > 1 else "{job.model_id}"\n',
            'DATA = sys.argv[2] if len(sys.argv) > 2 else "train.jsonl"\n',
            f'OUTPUT = sys.argv[3] if len(sys.argv) > 3 else "{job.method.slug}"\n',
            f"LONGEST, BATCH, ACCUMULATION, EPOCHS, RATE = {plan.seq}, {plan.micro_batch}, {plan.accumulation}, {job.epochs:g}, {job.rate:g}\n\n",
            head.reader,
            'rows = [json.loads(line) for line in Path(DATA).read_text(encoding="utf-8").splitlines()]\n',
            f"STEPS = max(1, int(EPOCHS * len(rows) / (BATCH * ACCUMULATION * {plan.gpus})))\n",
            _loading(job, head, quantised),
            f"model = get_peft_model(model, {of.kind}({words}))\n",
            "model.print_trainable_parameters()\n\n\n",
            f"def encode(row):\n{head.encode}\n\n",
            _SCHEDULE if scheduled else "",
            _optimizer(of, advised(job.method)),
            _training(job, head, of, scheduled),
        )
    )


_AS_TURNS = ", which become turns in the model's own template of a conversation"
_PREFIX = "from os.path import commonprefix\n"


def _published_packed(job: Job) -> bool:
    """Whether the repository holds experts in four bits, in which nothing trains; copies in bf16 are named so."""
    return job.model.model_type in PUBLISHED_IN_FOUR_BITS and "bf16" not in job.model_id.lower()


def _launch(plan: Plan) -> str:
    """How a script for several cards is started: one process for each."""
    return "" if plan.gpus == 1 else f"\n\nStart it with: torchrun --nproc_per_node {plan.gpus} FILE\n"


_SCHEDULE = """class Allocate(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        model.base_model.update_and_allocate(state.global_step)


"""


def _imports(job: Job, head: _Head, of: Attached, scheduled: bool) -> str:
    plan = job.plan
    quantised = plan.storage != "bf16"
    names = {of.kind, "get_peft_model"}
    lines = [f"from peft import {', '.join(sorted(names))}\n"]
    if of.maker is not None:
        lines.append(f"from peft.optimizers import {of.maker}\n")
    needed = {head.loader, "AutoTokenizer", head.collator.partition("(")[0], "Trainer", "TrainingArguments"}
    needed |= {"BitsAndBytesConfig"} if quantised else set()
    needed |= {"TrainerCallback"} if scheduled else set()
    needed |= {"Mxfp4Config"} if _published_packed(job) else set()
    lines.append(f"from transformers import {', '.join(sorted(needed))}\n")
    return "".join(lines)


def _loading(job: Job, head: _Head, quantised: bool) -> str:
    """The base, stored as the plan says.

    PEFT's ``prepare_model_for_kbit_training`` is left out on purpose: it makes embeddings, head and norms fp32, which the
    plan does not count, and the rest of it is written here.
    """
    plan, further, text = job.plan, "", ""
    spread = plan.sharding == "full"
    if quantised:
        four = 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype='
        four += job.dtype
        if spread:  # packed bytes are spread over cards as numbers of the type that all else has
            four += f", bnb_4bit_quant_storage={job.dtype}"
        packed = four if plan.storage == "nf4" else "load_in_8bit=True"
        if head.task == "SEQ_CLS":  # PEFT trains the new head, which cannot be done in few bits
            packed += ', llm_int8_skip_modules=["classifier", "score"]'
        text = f"stored = BitsAndBytesConfig({packed})\n"
        further = ", quantization_config=stored"
    if _published_packed(job):
        further += ", quantization_config=Mxfp4Config(dequantize=True)"
    if quantised and not spread:
        place = '0 if torch.cuda.is_available() else "cpu"' if plan.gpus == 1 else "PartialState().local_process_index"
        further += f', device_map={{"": {place}}}'
    if head.task == "SEQ_CLS":
        further += ', num_labels=1 + max(row["label"] for row in rows)'
    text += f"model = {head.loader}.from_pretrained(MODEL, dtype={job.dtype}{further})\n"
    if head.task == "SEQ_CLS":
        text += "model.config.pad_token_id = tokenizer.pad_token_id\n"
    if plan.checkpointing:
        text += "model.enable_input_require_grads()\n"
    return text


def _optimizer(of: Attached, advice: Mapping[str, object]) -> str:
    """The optimizer that the method consists of, where it is one."""
    if of.maker is None:
        return ""
    if "loraplus" in of.maker:
        return f"optimizer = {of.maker}(model, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio={advice['lr_ratio']})\n"
    return f"optimizer = {of.maker}(model, r={of.arguments['r']}, lora_alpha={of.arguments['lora_alpha']}, lr=RATE)\n"


def _training(job: Job, head: _Head, of: Attached, scheduled: bool) -> str:
    plan = job.plan
    lines = [
        "output_dir=OUTPUT",
        "per_device_train_batch_size=BATCH",
        "gradient_accumulation_steps=ACCUMULATION",
        "num_train_epochs=EPOCHS",
        "learning_rate=RATE",
        'lr_scheduler_type="linear"',
        "warmup_steps=STEPS // 16",
        f'optim="{optimizer_word(plan.optimizer)}"',
        f"{job.half}=True",
        "use_cpu=not torch.cuda.is_available()",
        f"gradient_checkpointing={plan.checkpointing}",
        "remove_unused_columns=False",
        "logging_steps=10",
        'report_to="none"',
        'save_strategy="no"',
    ]
    if plan.sharding == "full":
        lines.append('fsdp="full_shard auto_wrap"')
    given = [
        "model=model",
        "args=arguments",
        "train_dataset=[encode(row) for row in rows]",
        f"data_collator={head.collator}",
    ]
    if of.maker is not None:
        given.append("optimizers=(optimizer, None)")
    if scheduled:
        given.append("callbacks=[Allocate()]")
    body = "".join(f"    {line},\n" for line in lines)
    return (
        f"arguments = TrainingArguments(\n{body})\nTrainer({', '.join(given)}).train()\nmodel.save_pretrained(OUTPUT)\n"
    )
