"""What a method record holds. Every field is described once, here: the schema, the checks and the pages read it.

Unknown is a written ``null``, never a default: a field that a record leaves out is an error. Every number and every
yes/no carries its source.
"""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

T = TypeVar("T")

Many = Annotated[tuple[T, ...], Strict(False)]  # YAML gives lists; the records are frozen
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
ClassId = Annotated[str, Field(pattern=r"^[a-z][a-z_]*(\.[a-z][a-z_]*)?$")]
Text = Annotated[str, Field(min_length=1)]

Basis = Literal["paper", "code", "derived", "measured"]
Grade = Literal["A", "B", "U"]
Rung = Literal["rename", "composition", "new_skill"]
Architecture = Literal["decoder", "encoder", "encoder_decoder", "vision", "diffusion"]
Form = Literal[
    "low_rank",  # a thin product beside a frozen matrix
    "dense_delta",  # a change of full size is formed from few numbers (Kronecker, Fourier, Hadamard, random bases)
    "rotation",  # the weight is multiplied by a structured matrix
    "scaling",  # elementwise vectors on activations or weights
    "bottleneck",  # a small network inside the layer, in series or beside it
    "prompt",  # vectors in front of the input
    "prefix",  # vectors in front of the keys and values of every layer
    "in_place",  # some of the model's own parameters train
    "mask",  # single entries of the model's parameters train, chosen by a mask
    "side_network",  # a network beside the backbone; nothing flows back through the backbone
    "representation",  # an edit of hidden states at chosen layers and positions
    "merge",  # fused from trained models without training
    "full",  # every parameter trains
]


class Record(BaseModel):
    """Base of everything in the knowledge base: no unknown field, no coercion, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Record):
    """Where a value comes from."""

    basis: Basis = Field(
        description="paper: read in it; code: read in a repository; derived: follows from the equation; measured: by us or a library run"
    )
    ref: Text = Field(description="slug of the method whose paper or code it is, or an id of kb/sources.yaml")
    where: Text = Field(description="section, equation, table, file or command")
    grade: Grade = Field(
        description="A: read in the primary source or checked by computation; B: in a secondary text; U: unverified"
    )


class Value(Record, Generic[T]):
    """A fact with its source; ``value: null`` is 'not known' and needs none."""

    value: T | None = Field(description="the fact, or null if it is not known")
    source: Source | None = Field(description="where it comes from; null only if the value is null")
    note: Text | None = Field(default=None, description="a condition or exception, in one sentence")

    @model_validator(mode="after")
    def _sourced(self) -> Value[T]:
        if self.value is not None and self.source is None:
            raise ValueError(f"the value {self.value!r} has no source; add one, or write null for the value")
        return self


class Paper(Record):
    """The publication that proposed the method."""

    title: Text = Field(description="full title as published")
    authors: Many[Text] = Field(description="authors in order; may end with 'et al.'")
    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")] | None = Field(description="quoted arXiv id, or null")
    url: Text | None = Field(description="where to read it if it is not on arXiv, else null")
    venue: Text | None = Field(description="venue and year, or null if not known")


class OfficialCode(Record):
    """The authors' own implementation."""

    url: Text = Field(description="repository, as a permalink where a commit is known")
    licence: Text | None = Field(description="SPDX name, or null if not known")


class Library(Record):
    """A maintained library that ships the method."""

    name: Text = Field(description="distribution name, e.g. peft")
    version: Text | None = Field(description="the version in which it was seen, or null if not checked")
    symbol: Text | None = Field(description="class, call or settings (YAML) to use, or null if not known")


class Code(Record):
    """Where running code can be found besides ours."""

    official: OfficialCode | None = Field(description="the authors' repository, or null if none is known")
    libraries: Many[Library] = Field(description="libraries that ship it")


class Schemes(Record):
    """Places in three other schemes; null where the scheme's paper does not say and its definition does not decide."""

    decomposition: Literal["reconstruction", "extension", "combination"] | None = Field(description="after 2407.05417")
    critical_review: Literal["additive", "partial", "reparameterized", "hybrid", "unified"] | None = Field(
        description="after 2312.12148"
    )
    library: Literal["prompt", "layer_tuning", "adapter"] | None = Field(
        description="how Hugging Face PEFT's documentation sorts methods"
    )


class Survey(Record):
    """How the survey (2303.15647 v2) places the method."""

    figure2: Text | None = Field(description="the name drawn in Figure 2, or null if it is not drawn")
    table1: bool = Field(description="whether Table 1 has a row for it")
    section: Text | None = Field(description="the survey's section or topic on it, or null if not known")
    note: Text | None = Field(description="a doubt about which paper the survey means, or null")


class Relation(Record):
    """A directed statement about another method."""

    kind: Literal["extends", "combines", "special_case_of", "supersedes"] = Field(
        description="what this method does to the other"
    )
    to: Slug = Field(description="slug of the other record")
    note: Text = Field(description="in which way, in one sentence")


class Taxonomy(Record):
    """Where the method stands among the others."""

    classes: Many[ClassId] = Field(min_length=1, description="leaf classes of kb/classes.yaml; a hybrid has several")
    schemes: Schemes = Field(description="its place in other schemes")
    survey: Survey | None = Field(description="how the survey places it, or null if the survey does not have it")
    relations: Many[Relation] = Field(description="statements about other methods")


class Hyperparameter(Record):
    """A knob of the method."""

    name: Slug = Field(description="plain word; the field of the implementation's Config")
    symbol: Text = Field(description="letter in the equation; an identifier when count expressions use it")
    paper_default: int | float | str | bool | None = Field(description="the paper's value, or null if it gives none")
    ours: int | float | str | bool | None = Field(description="where we advise to start, or null if we have no advice")
    reason: Text | None = Field(description="why ours differs from the paper's, else null")
    range: Many[int | float] | None = Field(description="smallest and largest sensible value, or null")
    effect: Text = Field(description="what turning it up does")
    source: Source | None = Field(description="source of the paper's value; null only if that is null")

    @model_validator(mode="after")
    def _sourced(self) -> Hyperparameter:
        if self.paper_default is not None and self.source is None:
            raise ValueError(f"the default {self.paper_default!r} of {self.name} has no source; add one, or write null")
        if self.range is not None and (len(self.range) != 2 or self.range[0] > self.range[1]):
            raise ValueError(f"the range of {self.name} needs a smallest and a largest value in this order")
        return self


class LearningRate(Record):
    """Where to start with the learning rate."""

    paper: Value[float] = Field(description="the paper's main value")
    advice: Text = Field(description="how to set it, in one sentence")


class Mechanism(Record):
    """What the method does to the model."""

    description: Text = Field(description="one paragraph in our own words")
    changes: Many[Literal["weights", "activations", "input", "selection", "optimizer", "architecture"]] = Field(
        min_length=1, description="what it touches"
    )
    form: Many[Form] = Field(
        min_length=1, description="the shape of the added computation; memory and speed follow from it"
    )
    where: Many[Text] = Field(
        min_length=1,
        description="sites of the transformer it acts on by default, e.g. attention.query, mlp.down, input",
    )
    equation: Text = Field(description="the defining equation in TeX")
    symbols: dict[str, Text] = Field(description="every letter of the equation with its meaning and shape")
    initialisation: dict[str, Text] | None = Field(
        description="how each new parameter starts, or null if there is none"
    )
    hyperparameters: Many[Hyperparameter] = Field(description="its knobs")
    learning_rate: LearningRate | None = Field(
        description="learning-rate guidance, or null if the method is not trained"
    )


class Count(Record):
    """A number of parameters (or a rank) as a formula."""

    expr: Text | None = Field(
        description="formula over architecture variables and hyperparameter symbols; null if it has no meaning or is not known"
    )
    scope: Literal["linear", "model"] = Field(
        description="linear: per adapted linear layer (d_in, d_out); model: for the whole model"
    )
    source: Source | None = Field(description="where the formula comes from; null only if expr is null")
    note: Text | None = Field(default=None, description="what it leaves out or assumes, or why it is null")

    @model_validator(mode="after")
    def _sourced(self) -> Count:
        if self.expr is not None and self.source is None:
            raise ValueError(f"the formula {self.expr!r} has no source; add one, or write null")
        if self.expr is None and self.note is None:
            raise ValueError("a formula that is null needs a note that says why")
        return self


class Counts(Record):
    """The survey's three parameter counts, and what a task stores on disk."""

    trainable: Count = Field(description="parameters that an optimizer updates")
    changed: Count = Field(description="parameters of the original model whose effective value changes")
    rank: Count = Field(description="largest rank of the change of one weight matrix")
    stored: Count = Field(
        description="numbers stored per task after training (values; index storage is named in the note)"
    )


class SurveyRow(Record):
    """The method's row in Table 1 of the survey's second version."""

    type: Annotated[str, Field(pattern=r"^A?R?S?$", min_length=1)] = Field(
        description="letters of its classes: A, R, S, in alphabetical order"
    )
    disk: Literal["better", "not_better"] = Field(description="storage per task against full fine-tuning")
    ram: Literal["better", "not_better"] = Field(description="training memory against full fine-tuning")
    backprop: Literal["better", "not_better"] = Field(description="cost of back-propagation against full fine-tuning")
    inference_overhead: Text = Field(description="what it adds at inference, in the table's words")
    note: Text | None = Field(description="a footnote of the table, or null")
    source: Source = Field(description="the table")


class Efficiency(Record):
    """What it costs, and what it needs."""

    survey_table1: SurveyRow | None = Field(description="its row in the survey's Table 1, or null if it has none")
    mergeable: Value[bool] = Field(
        description="the trained model can be written back as one plain model of the original architecture"
    )
    identity_at_init: Value[bool] = Field(
        description="the model is unchanged before the first step, as our implementation and the paper start it"
    )
    backprop_through_backbone: Value[bool] = Field(description="gradients flow through the frozen model")
    quantised_base: Value[bool] = Field(description="it works while the base weights are stored in 4 or 8 bits")
    many_adapters_in_one_batch: Value[bool] = Field(
        description="examples of different tasks can share a batch at inference"
    )
    needs_data_first: Value[bool] = Field(description="it looks at data before training starts")
    needs_all_gradients: Value[bool] = Field(
        description="at some moment it needs gradients of all weights of the model"
    )
    inference_overhead: Value[Literal["none", "elementwise", "extra_layers", "longer_input", "extra_network"]] = Field(
        description="what remains at inference after merging what can be merged"
    )


class Applicability(Record):
    """Which models it works on."""

    architectures: Many[Architecture] = Field(min_length=1, description="kinds of transformer it applies to")
    needs: Many[
        Literal[
            "biases",
            "cross_attention",
            "several_tasks",
            "fine_tuned_models",
            "masked_lm",
            "trained_adapters",
            "quantised_base",
            "square_attention",
        ]
    ] = Field(description="what the model or the situation must have")
    smallest_scale: Value[float] = Field(description="smallest model (parameters) on which it was shown to work")
    largest_scale: Value[float] = Field(description="largest model (parameters) on which it was shown to work")


class Advice(Record):
    """What a colleague who knows the method would say."""

    use_when: Many[Text] = Field(min_length=1, description="situations that call for it")
    avoid_when: Many[Text] = Field(min_length=1, description="situations that speak against it")
    mistakes: Many[Text] = Field(
        description="common mistakes; may cite a finding of the survey as '(survey, finding 5)'"
    )


class Reference(Record):
    """How our implementation is run on the default ladder of tasks."""

    expected_rung: Rung | Literal["none"] = Field(description="highest rung that it is expected to climb")
    learning_rate: float = Field(description="learning rate of the default run")
    steps: int = Field(description="optimizer steps of the default run")
    config: dict[str, int | float | str | bool] = Field(
        description="fields of Config that the small base needs to differ from the paper"
    )
    note: Text | None = Field(description="why it climbs no higher, or null")


class Review(Record):
    """When the record was last held against its sources."""

    checked: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] = Field(description="date, ISO 8601")
    doubts: Many[Text] = Field(description="what could not be verified, one sentence each")


class Method(Record):
    """One method: its identity, its mechanism, its costs and our advice."""

    slug: Slug = Field(description="file stem, module name, URL and graph node; never renamed")
    name: Text = Field(description="the name that the field uses")
    full_name: Text = Field(description="the name written out")
    aliases: Many[Text] = Field(description="other names, former slugs")
    status: Literal["baseline", "established", "research"] = Field(
        description="established: shipped by a maintained library"
    )
    year: Annotated[int, Field(ge=1990, le=2100)] = Field(description="year of the first public version")
    summary: Text = Field(description="what it does, in one or two sentences")
    paper: Paper | None = Field(description="the publication that proposed it, or null if there is none")
    code: Code = Field(description="where else it runs")
    taxonomy: Taxonomy = Field(description="where it stands")
    mechanism: Mechanism = Field(description="what it does")
    counts: Counts = Field(description="how many parameters, as formulas")
    efficiency: Efficiency = Field(description="costs and needs")
    applies_to: Applicability = Field(description="models it works on")
    advice: Advice = Field(description="when to take it")
    reference: Reference | None = Field(description="default run of our implementation, or null if there is none yet")
    review: Review = Field(description="state of verification")


class ClassNode(Record):
    """A class of the taxonomy."""

    id: ClassId = Field(description="dotted path, e.g. additive.adapter")
    name: Text = Field(description="how it is written")
    definition: Text = Field(description="what belongs to it, in one sentence")
    survey: bool = Field(description="whether the survey's Figure 2 draws it; false for a class of ours")
    circle: bool = Field(
        description="whether Figure 2 draws it as a circle inside its base class; false for a base class and for the rest of one"
    )


class SchemeGroup(Record):
    """A group of another classification scheme."""

    id: Slug = Field(description="the value that records use")
    name: Text = Field(description="how it is written")
    definition: Text = Field(description="what belongs to it, in one sentence")


class Scheme(Record):
    """Another way to sort the methods."""

    id: Literal["decomposition", "critical_review", "library"] = Field(description="the field of records that holds it")
    name: Text = Field(description="how it is written")
    source: Source = Field(description="who proposed it")
    groups: Many[SchemeGroup] = Field(description="its groups")


class Classification(Record):
    """The survey's classes and the other schemes (kb/classes.yaml)."""

    classes: Many[ClassNode] = Field(description="classes, parents before children")
    schemes: Many[Scheme] = Field(description="other schemes")


class Reading(Record):
    """A publication or repository that sources refer to (kb/sources.yaml)."""

    title: Text = Field(description="title, or repository name")
    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")] | None = Field(description="quoted arXiv id, or null")
    url: Text | None = Field(description="where to read it if not on arXiv, else null")


class Term(Record):
    """A word of the trade with its meaning (kb/glossary.yaml)."""

    id: Slug = Field(description="name in addresses")
    term: Text = Field(description="the word as it is defined")
    forms: Many[Text] = Field(description="other spellings that mean the same in running text")
    definition: Text = Field(description="what it means, in one or two sentences of ours")
    source: Source = Field(description="where it is used in this sense")


class Finding(Record):
    """A finding of the survey, in our words (kb/findings.yaml)."""

    number: int = Field(description="number by which pages and reasons cite it")
    statement: Text = Field(description="the finding")
    source: Source = Field(description="where the survey says it")
