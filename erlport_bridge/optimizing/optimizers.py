"""The catalogue of DSPy's optimizers that can compile a program: their options, and how each is called."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.modules import (
    EMBEDDER,
    MAX_COUNT,
    DataOption,
    ModelOption,
)
from erlport_bridge.programs.options import (
    BooleanOption,
    ChoiceOption,
    IntegerOption,
    IntegersOption,
    NumberOption,
    Option,
    Vocabulary,
)
from erlport_bridge.programs.pipelines import Learned, Pipeline, Voting, learned, voting
from erlport_bridge.programs.sessions import MAX_MEMBERS
from erlport_bridge.programs.text import arguments, quoted, suggestion

_BUDGETS: Final = ("light", "medium", "heavy")
#: DSPy's default number of examples that score a candidate.
_MINIBATCH: Final = 35
_SIMBA_BATCH: Final = 32


@dataclass(frozen=True)
class CompileJob:
    """The arguments of an optimizer.

    Attributes:
        student: The program.
        metric: The metric in DSPy's form; ``None``: no metric.
        lm: The model of the program.
        options: All options of the optimizer, by name; models are objects of DSPy.
        trainset: The examples to learn from.
        valset: The examples that choose among the candidates; ``None``: the optimizer takes a part of the trainset.
        versions: What each version of the program has learned, by its number.
    """

    student: Pipeline
    metric: Callable[..., Any] | None
    lm: dspy.LM
    options: Mapping[str, Any]
    trainset: list[dspy.Example]
    valset: list[dspy.Example] | None
    versions: Mapping[int, Learned]

    def some(self, *names: str) -> dict[str, Any]:
        """Return the options of these names whose value is not ``None``."""
        return {name: self.options[name] for name in names if self.options[name] is not None}

    @property
    def teacher_settings(self) -> dict[str, Any]:
        """The settings of DSPy for the runs of the program that become demos."""
        teacher = self.options.get("teacher_lm")
        return {} if teacher is None else {"lm": teacher}


@dataclass(frozen=True)
class OptimizerEntry:
    """One optimizer that can compile a program.

    Attributes:
        name: The name that callers use.
        summary: What the optimizer does, in one sentence.
        run: Compiles a copy of the student.
        options: The optimizer's options.
        needs_metric: It cannot run without a metric.
        uses_metric: It rates runs of the program by the metric, if there is one.
        takes_valset: It chooses among its candidates by examples besides the trainset.
        packages: Packages that it needs besides DSPy; the extra ``optimizers`` installs them.
        least_examples: The minimum number of examples in a trainset without a valset.
        budgets: Options that exclude one another; the first of them has a default.
        gives_feedback: The metric's feedback goes to a model, besides the score.
        validates_on_trainset: Without a valset, candidates are chosen by their scores on the whole trainset.
        at_each_call: It runs at each call of the program, on the examples nearest to the inputs.
    """

    name: str
    summary: str
    run: Callable[[CompileJob], dspy.Module]
    options: tuple[Option, ...]
    needs_metric: bool = True
    uses_metric: bool = True
    takes_valset: bool = False
    packages: tuple[str, ...] = ()
    least_examples: int = 1
    budgets: tuple[str, ...] = ()
    gives_feedback: bool = False
    validates_on_trainset: bool = False
    at_each_call: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the entry as a term."""
        return {
            "name": self.name,
            "summary": self.summary,
            "options": {option.name: option.describe() for option in self.options},
            "needs_metric": self.needs_metric,
            "takes_valset": self.takes_valset,
            "least_examples": self.least_examples,
            "gives_feedback": self.gives_feedback,
            "at_each_call": self.at_each_call,
            "packages": list(self.packages),
            "available": not self.missing(),
        }

    def missing(self) -> list[str]:
        """Return the packages that the optimizer needs and that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]

    def check_packages(self) -> None:
        """Check that the packages that the optimizer needs are installed.

        Raises:
            OperationError: Of kind ``missing_dependency``: one of them is not.
        """
        if missing := self.missing():
            raise OperationError(
                "missing_dependency",
                f"{self.name} needs {' and '.join(missing)}; install erlport_bridge[optimizers], "
                f"or {' '.join(missing)}, into the Python of this port",
            )

    @property
    def vocabulary(self) -> Vocabulary:
        """The options of the optimizer as a vocabulary."""
        return Vocabulary(*self.options)

    def complete(self, read: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Return a value for each option of the optimizer, from the options that were read.

        Raises:
            OperationError: Of kind ``input``, with the path: more than one of ``budgets`` was given.
        """
        given = {name: value for name, value in read.items() if name in self.vocabulary}
        chosen = [name for name in self.budgets if given.get(name) is not None]
        if len(chosen) > 1:
            message = f"expected one of {', '.join(self.budgets)} at {path}, got {' and '.join(chosen)}"
            raise OperationError("input", message, path=f"{path}.{chosen[1]}")
        values = self.vocabulary.with_defaults(given)
        if chosen:
            values |= {name: None for name in self.budgets if name not in chosen}
        return values


def find_entry(name: object, path: str) -> OptimizerEntry:
    """Return the entry of a name.

    Raises:
        OperationError: Of kind ``input``: no name. Of kind ``module_not_found``: an unknown name.
    """
    if name is None:
        message = f"expected the name of an optimizer at {path}; known: {', '.join(ENTRIES)}"
        raise OperationError("input", message, path=path)
    text = arguments.text(name, path)
    entry = ENTRIES.get(_full(text))
    if entry is None:
        raise OperationError(
            "module_not_found",
            f"unknown optimizer {quoted(text)}{suggestion(_full(text), ENTRIES)}; known: {', '.join(ENTRIES)}",
            path=path,
        )
    return entry


def _full(name: str) -> str:
    return name if name.startswith("dspy.") else f"dspy.{name}"


def _integer(
    name: str, default: int | None, description: str, minimum: int = 0, maximum: int = 10_000
) -> IntegerOption:
    return IntegerOption(name=name, default=default, minimum=minimum, maximum=maximum, description=description)


def _number(name: str, default: float | None, description: str) -> NumberOption:
    return NumberOption(name=name, default=default, description=description)


def _seed(default: int = 0) -> IntegerOption:
    return IntegerOption(name="seed", default=default, minimum=0, maximum=2**32 - 1, description="random seed")


_THRESHOLD: Final = _number(
    "metric_threshold", None, "the minimum score of an answer that becomes a demo; by default any score above 0"
)
_TEACHER: Final = ModelOption(
    name="teacher_lm", description="the model for answers that become demos; by default the program's"
)
_PROMPT: Final = ModelOption(
    name="prompt_lm", description="the model that writes instructions; by default the program's"
)
_ROUNDS: Final = _integer("max_rounds", 1, "how often an example is tried until its answer is good", 1, 100)


def _demos(labeled: int) -> tuple[Option, ...]:
    return (
        _integer("max_bootstrapped_demos", 4, "most demos that are good answers of the program itself", 0, 1_000),
        _integer("max_labeled_demos", labeled, "most demos that are examples of the trainset, unchanged", 0, 1_000),
    )


_BOOTSTRAPPING: Final = ("metric_threshold", "max_bootstrapped_demos", "max_labeled_demos", "max_rounds")
_CANDIDATES: Final = _integer("num_candidate_programs", 16, "how many programs are tried", 1)


def _labeled(job: CompileJob) -> dspy.Module:
    optimizer = dspy.LabeledFewShot(k=job.options["k"])
    return optimizer.compile(job.student, trainset=job.trainset, sample=job.options["sample"])


def _bootstrap(job: CompileJob) -> dspy.Module:
    optimizer = dspy.BootstrapFewShot(
        metric=job.metric, teacher_settings=job.teacher_settings, **job.some(*_BOOTSTRAPPING)
    )
    return optimizer.compile(job.student, trainset=job.trainset)


def _random_search(job: CompileJob) -> dspy.Module:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=job.metric,
        teacher_settings=job.teacher_settings,
        **job.some(*_BOOTSTRAPPING, "num_candidate_programs", "stop_at_score"),
    )
    return optimizer.compile(job.student, trainset=job.trainset, valset=job.valset)


def _with_optuna(job: CompileJob) -> dspy.Module:
    optimizer = dspy.BootstrapFewShotWithOptuna(
        metric=job.metric,
        teacher_settings=job.teacher_settings,
        **job.some("max_bootstrapped_demos", "max_labeled_demos", "max_rounds", "num_candidate_programs"),
    )
    most = job.options["max_bootstrapped_demos"]
    return optimizer.compile(job.student, trainset=job.trainset, valset=job.valset, max_demos=most)


def _copro(job: CompileJob) -> dspy.Module:
    optimizer = dspy.COPRO(
        metric=job.metric, prompt_model=job.options["prompt_lm"], **job.some("breadth", "depth", "init_temperature")
    )
    return optimizer.compile(job.student, trainset=job.trainset, eval_kwargs={})


def _mipro(job: CompileJob) -> dspy.Module:
    by_hand = job.options["num_candidates"] is not None
    validating = len(job.valset) if job.valset is not None else max(1, int(len(job.trainset) * 0.8))
    optimizer = dspy.MIPROv2(
        metric=job.metric,
        prompt_model=job.options["prompt_lm"],
        task_model=job.lm,
        teacher_settings=job.teacher_settings,
        auto=None if by_hand else job.options["auto"],
        **job.some("num_candidates", "max_bootstrapped_demos", "max_labeled_demos", "init_temperature", "seed"),
        **job.some("metric_threshold"),
    )
    trials = job.options["num_trials"]
    if by_hand and trials is None:
        trials = optimizer._set_num_trials_from_num_candidates(job.student, False, job.options["num_candidates"])
    return optimizer.compile(
        job.student,
        trainset=job.trainset,
        valset=job.valset,
        num_trials=trials if by_hand else None,
        minibatch=job.options["minibatch"],
        # DSPy raises an error for its own default if there are fewer examples.
        minibatch_size=min(job.options["minibatch_size"], validating),
        minibatch_full_eval_steps=job.options["minibatch_full_eval_steps"],
    )


def _simba(job: CompileJob) -> dspy.Module:
    optimizer = dspy.SIMBA(
        metric=job.metric,
        prompt_model=job.options["prompt_lm"],
        teacher_settings=job.teacher_settings,
        # DSPy raises an error for its own default if there are fewer examples.
        bsize=min(job.options["bsize"], len(job.trainset)),
        **job.some("num_candidates", "max_steps", "max_demos"),
        **job.some("temperature_for_sampling", "temperature_for_candidates"),
    )
    return optimizer.compile(job.student, trainset=job.trainset, seed=job.options["seed"])


def _gepa(job: CompileJob) -> dspy.Module:
    optimizer = dspy.GEPA(
        metric=job.metric,
        reflection_lm=job.options["reflection_lm"] or job.lm,
        warn_on_score_mismatch=False,
        **job.some("auto", "max_full_evals", "max_metric_calls", "reflection_minibatch_size", "seed"),
        **job.some("candidate_selection_strategy", "skip_perfect_score", "use_merge", "max_merge_invocations"),
        **job.some("perfect_score"),
    )
    return optimizer.compile(job.student, trainset=job.trainset, valset=job.valset)


def _ensemble(job: CompileJob) -> dspy.Module:
    chosen = job.options["versions"] or list(job.versions)
    if unknown := [number for number in chosen if number not in job.versions]:
        known = ", ".join(map(str, job.versions))
        message = f"expected versions of the program at opts.versions, which are {known}; got {unknown[0]}"
        raise OperationError("input", message, path="opts.versions")
    members = [job.versions[number] for number in chosen]
    if nested := [number for number, known in zip(chosen, members, strict=True) if voting.count_members(known)]:
        message = f"expected versions that do not vote themselves at opts.versions, got {nested[0]}"
        raise OperationError("input", message, path="opts.versions")
    module = Voting(job.student.stages, job.student.outputs, len(members))
    for member, knows in zip(module.members, members, strict=True):
        learned.teach(member, knows)
    return module


def _infer_rules(job: CompileJob) -> dspy.Module:
    optimizer = dspy.InferRules(
        metric=job.metric,
        teacher_settings=job.teacher_settings,
        **job.some(*_BOOTSTRAPPING, "num_candidates", "num_rules"),
    )
    return optimizer.compile(job.student, trainset=job.trainset, valset=job.valset)


#: Compiles and calls a program in a way of its own, see :mod:`.nearest`.
KNN_FEW_SHOT: Final = OptimizerEntry(
    "dspy.KNNFewShot",
    "At each call, runs the program on the examples nearest to the inputs; good runs become its demos.",
    _bootstrap,
    (
        _integer("k", 3, "how many examples are used", 1, MAX_COUNT),
        DataOption(name="vectors", of="vectors", description="embeddings of the examples, if they are known"),
        EMBEDDER,
        *_demos(16),
        _THRESHOLD,
        _ROUNDS,
    ),
    needs_metric=False,
    at_each_call=True,
)

_SHOWN: Final[Sequence[OptimizerEntry]] = (
    OptimizerEntry(
        "dspy.LabeledFewShot",
        "Puts examples into the prompt as demos, unchanged. Compiling calls no model.",
        _labeled,
        (
            _integer("k", 16, "how many examples become demos", 1, 1_000),
            BooleanOption(name="sample", default=True, description="random examples instead of the first ones"),
        ),
        needs_metric=False,
        uses_metric=False,
    ),
    OptimizerEntry(
        "dspy.BootstrapFewShot",
        "Runs the program on the examples, and puts the good runs into the prompts as demos.",
        _bootstrap,
        (*_demos(16), _THRESHOLD, _ROUNDS, _TEACHER),
        needs_metric=False,
    ),
    KNN_FEW_SHOT,
    OptimizerEntry(
        "dspy.BootstrapFewShotWithRandomSearch",
        "Does what dspy.BootstrapFewShot does with many random sets of demos, and keeps the best program.",
        _random_search,
        (
            *_demos(16),
            _THRESHOLD,
            _ROUNDS,
            _CANDIDATES,
            _number("stop_at_score", None, "a score (0 to 100) that ends the search"),
            _TEACHER,
        ),
        takes_valset=True,
    ),
    OptimizerEntry(
        "dspy.BootstrapFewShotWithOptuna",
        "Does what dspy.BootstrapFewShot does, with demos chosen by Optuna.",
        _with_optuna,
        (*_demos(16), _ROUNDS, _CANDIDATES, _TEACHER),
        takes_valset=True,
        packages=("optuna",),
    ),
    OptimizerEntry(
        "dspy.COPRO",
        "Has a model write better instructions repeatedly, and keeps the best ones.",
        _copro,
        (
            _integer("breadth", 10, "how many instructions are tried in each round", 2, 1_000),
            _integer("depth", 3, "the number of rounds", 1, 100),
            _number("init_temperature", 1.4, "temperature of the model that writes instructions"),
            _PROMPT,
        ),
    ),
    OptimizerEntry(
        "dspy.MIPROv2",
        "Finds instructions and demos together, by Bayesian optimisation.",
        _mipro,
        (
            ChoiceOption(name="auto", default="light", choices=_BUDGETS, description="the size of the search"),
            _integer("num_candidates", None, "how many instructions and sets of demos, in place of auto", 2, 1_000),
            _integer("num_trials", None, "how many combinations of them; by default derived from num_candidates", 1),
            *_demos(4),
            _THRESHOLD,
            BooleanOption(name="minibatch", default=True, description="score candidates by a part of the examples"),
            _integer("minibatch_size", _MINIBATCH, "the size of that part", 1),
            _integer("minibatch_full_eval_steps", 5, "after how many trials the best is scored by all examples", 1),
            _number("init_temperature", 1.0, "temperature of the model that writes instructions"),
            _seed(9),
            _PROMPT,
            _TEACHER,
        ),
        takes_valset=True,
        packages=("optuna", "numpy"),
        least_examples=2,
        budgets=("auto", "num_candidates"),
    ),
    OptimizerEntry(
        "dspy.SIMBA",
        "Learns rules and demos from the examples whose scores differ most between runs.",
        _simba,
        (
            _integer("bsize", _SIMBA_BATCH, "how many examples each step uses", 1),
            _integer("num_candidates", 6, "how many programs each step tries", 1, 1_000),
            _integer("max_steps", 8, "the number of steps", 1, 1_000),
            _integer("max_demos", 4, "most demos of a predictor; with 0 only rules are learned", 0, 1_000),
            _number("temperature_for_sampling", 0.2, "temperature of the choice of programs to run"),
            _number("temperature_for_candidates", 0.2, "temperature of the choice of programs to change"),
            _seed(),
            _PROMPT,
            _TEACHER,
        ),
        packages=("numpy",),
    ),
    OptimizerEntry(
        "dspy.GEPA",
        "Has a model reflect on runs and on the metric's feedback, and write better instructions.",
        _gepa,
        (
            ChoiceOption(name="auto", default="light", choices=_BUDGETS, description="the size of the search"),
            _integer("max_full_evals", None, "how many scorings of all examples, in place of auto", 1),
            _integer("max_metric_calls", None, "how many calls of the metric, in place of auto", 1, 10_000_000),
            ModelOption(name="reflection_lm", description="the model that reflects; by default the program's"),
            _integer("reflection_minibatch_size", 3, "how many runs that model sees at a time", 1, 1_000),
            ChoiceOption(
                name="candidate_selection_strategy",
                default="pareto",
                choices=("pareto", "current_best"),
                description="which candidate is changed next",
            ),
            BooleanOption(name="skip_perfect_score", default=True, description="do not reflect on perfect runs"),
            _number("perfect_score", 1.0, "the score of a perfect run"),
            BooleanOption(name="use_merge", default=True, description="merge good candidates"),
            _integer("max_merge_invocations", 5, "how many times candidates may be merged", 0),
            _seed(),
        ),
        takes_valset=True,
        budgets=("auto", "max_full_evals", "max_metric_calls"),
        gives_feedback=True,
        validates_on_trainset=True,
    ),
    OptimizerEntry(
        "dspy.InferRules",
        "Has a model find rules in the examples, and adds the rules that help to the instructions.",
        _infer_rules,
        (
            *_demos(16),
            _THRESHOLD,
            _ROUNDS,
            _integer("num_candidates", 10, "how many sets of rules", 1, 1_000),
            _integer("num_rules", 10, "how many rules", 1, 1_000),
            _TEACHER,
        ),
        takes_valset=True,
        least_examples=2,
    ),
    OptimizerEntry(
        "dspy.Ensemble",
        "Has several versions of the program vote; the most frequent answer wins. Compiling calls no model.",
        _ensemble,
        (
            IntegersOption(
                name="versions",
                minimum=1,
                maximum=10_000,
                most=MAX_MEMBERS,
                description="the versions that vote; by default all",
            ),
        ),
        needs_metric=False,
        uses_metric=False,
        least_examples=0,
    ),
)

#: All optimizers by name.
ENTRIES: Final[Mapping[str, OptimizerEntry]] = {entry.name: entry for entry in _SHOWN}
