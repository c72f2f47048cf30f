"""Which of DSPy's optimizers can compile a program, what they take, and how each is called."""

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
#: DSPy's own size of a part of the examples that scores a candidate.
_MINIBATCH: Final = 35
_SIMBA_BATCH: Final = 32


@dataclass(frozen=True)
class CompileJob:
    """What an optimizer is called with.

    Attributes:
        student: The program.
        metric: DSPy's form of the metric; ``None``: there is none.
        lm: The model of the program.
        options: All options of the optimizer, by name; models are DSPy's.
        trainset: The examples to learn from.
        valset: The examples to choose by; ``None``: the optimizer takes some of the trainset.
        versions: What each version of the program has learned.
    """

    student: Pipeline
    metric: Callable[..., Any] | None
    lm: dspy.LM
    options: Mapping[str, Any]
    trainset: list[dspy.Example]
    valset: list[dspy.Example] | None
    versions: Mapping[int, Learned]

    def some(self, *names: str) -> dict[str, Any]:
        """Give the options of these names that are not ``None``."""
        return {name: self.options[name] for name in names if self.options[name] is not None}

    @property
    def teacher_settings(self) -> dict[str, Any]:
        """The settings of DSPy under which a program shows how it is done."""
        teacher = self.options.get("teacher_lm")
        return {} if teacher is None else {"lm": teacher}


@dataclass(frozen=True)
class OptimizerEntry:
    """One optimizer.

    Attributes:
        name: As callers write it.
        summary: What it does, one sentence.
        run: Compiles a copy of the student.
        options: What it takes.
        needs_metric: It cannot do without.
        takes_valset: Examples beside the trainset choose among the candidates.
        packages: What it needs that DSPy does not bring, which the extra ``optimizers`` installs.
        least_examples: How many examples it needs, without a valset of their own.
        budgets: Options of which exactly one must be given; the first has a default.
        gives_feedback: A model sees what the metric says beside the score.
        at_each_call: It runs at each call of the program, on the examples nearest to the inputs.
    """

    name: str
    summary: str
    run: Callable[[CompileJob], dspy.Module]
    options: tuple[Option, ...]
    needs_metric: bool = True
    takes_valset: bool = False
    packages: tuple[str, ...] = ()
    least_examples: int = 1
    budgets: tuple[str, ...] = ()
    gives_feedback: bool = False
    at_each_call: bool = False

    def describe(self) -> dict[str, Any]:
        """Give the entry as a term."""
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
        """Give the packages that it needs and that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]

    def check_packages(self) -> None:
        """Check that all it needs is installed.

        Raises:
            OperationError: Of kind ``missing_dependency``.
        """
        if missing := self.missing():
            raise OperationError(
                "missing_dependency",
                f"{self.name} needs {' and '.join(missing)}; install erlport_bridge[optimizers], "
                f"or {' '.join(missing)}, into the Python of this port",
            )

    @property
    def vocabulary(self) -> Vocabulary:
        """What it takes."""
        return Vocabulary(*self.options)

    def complete(self, read: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Return a value for each of its options, from those that were read.

        Raises:
            OperationError: Of kind ``input``, with the path: more than one budget.
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
    """Find an optimizer.

    Raises:
        OperationError: Of kind ``input``, or ``module_not_found``.
    """
    if name is None:
        message = f"expected the name of an optimizer at {path}; known: {', '.join(ENTRIES)}"
        raise OperationError("input", message, path=path)
    text = arguments.text(name, path)
    entry = ENTRIES.get(text) or ENTRIES.get(f"dspy.{text}")
    if entry is None:
        raise OperationError(
            "module_not_found",
            f"unknown optimizer {quoted(text)}{suggestion(text, ENTRIES)}; known: {', '.join(ENTRIES)}",
            path=path,
        )
    return entry


def _integer(
    name: str, default: int | None, description: str, minimum: int = 0, maximum: int = 10_000
) -> IntegerOption:
    return IntegerOption(name=name, default=default, minimum=minimum, maximum=maximum, description=description)


def _number(name: str, default: float | None, description: str) -> NumberOption:
    return NumberOption(name=name, default=default, description=description)


def _seed(default: int = 0) -> IntegerOption:
    return IntegerOption(name="seed", default=default, minimum=0, maximum=2**32 - 1, description="of what is random")


_THRESHOLD: Final = _number(
    "metric_threshold", None, "the least score of an answer that becomes a demo; any above 0 if left out"
)
_TEACHER: Final = ModelOption(name="teacher_lm", description="the model whose answers become demos")
_PROMPT: Final = ModelOption(
    name="prompt_lm", description="the model that writes instructions; the program's if left out"
)
_ROUNDS: Final = _integer("max_rounds", 1, "how often an example is tried until its answer is right", 1, 100)


def _demos(labeled: int) -> tuple[Option, ...]:
    return (
        _integer("max_bootstrapped_demos", 4, "most demos that are right answers of the program itself", 0, 1_000),
        _integer("max_labeled_demos", labeled, "most demos that are examples as they came", 0, 1_000),
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
        # DSPy refuses its own default where there are fewer examples.
        minibatch_size=min(job.options["minibatch_size"], validating),
        minibatch_full_eval_steps=job.options["minibatch_full_eval_steps"],
    )


def _simba(job: CompileJob) -> dspy.Module:
    optimizer = dspy.SIMBA(
        metric=job.metric,
        prompt_model=job.options["prompt_lm"],
        teacher_settings=job.teacher_settings,
        # DSPy refuses its own default where there are fewer examples.
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


#: Has its own way to compile and to call, see :mod:`.nearest`.
KNN_FEW_SHOT: Final = OptimizerEntry(
    "dspy.KNNFewShot",
    "At each call, runs the program on the examples nearest to the inputs, and shows the runs that were right.",
    _bootstrap,
    (
        _integer("k", 3, "how many examples", 1, MAX_COUNT),
        DataOption(name="vectors", of="vectors", description="of the examples, if they are known"),
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
        "Puts examples into the prompt as they are; asks no model.",
        _labeled,
        (
            _integer("k", 16, "how many examples", 1, 1_000),
            BooleanOption(name="sample", default=True, description="at random, and not the first ones"),
        ),
        needs_metric=False,
    ),
    OptimizerEntry(
        "dspy.BootstrapFewShot",
        "Runs the program on the examples, and puts the runs that were right into the prompts.",
        _bootstrap,
        (*_demos(16), _THRESHOLD, _ROUNDS, _TEACHER),
        needs_metric=False,
    ),
    KNN_FEW_SHOT,
    OptimizerEntry(
        "dspy.BootstrapFewShotWithRandomSearch",
        "Does so with many choices of examples, and keeps the program that is best on the others.",
        _random_search,
        (
            *_demos(16),
            _THRESHOLD,
            _ROUNDS,
            _CANDIDATES,
            _number("stop_at_score", None, "a score (0 to 100) that is good enough"),
            _TEACHER,
        ),
        takes_valset=True,
    ),
    OptimizerEntry(
        "dspy.BootstrapFewShotWithOptuna",
        "Does so with Optuna's choice of demos.",
        _with_optuna,
        (*_demos(16), _ROUNDS, _CANDIDATES, _TEACHER),
        takes_valset=True,
        packages=("optuna",),
    ),
    OptimizerEntry(
        "dspy.COPRO",
        "Has a model write better instructions, again and again, and keeps the best.",
        _copro,
        (
            _integer("breadth", 10, "how many instructions are tried each time", 2, 1_000),
            _integer("depth", 3, "how often", 1, 100),
            _number("init_temperature", 1.4, "of the model that writes them"),
            _PROMPT,
        ),
    ),
    OptimizerEntry(
        "dspy.MIPROv2",
        "Finds instructions and demos together, by Bayesian optimisation.",
        _mipro,
        (
            ChoiceOption(name="auto", default="light", choices=_BUDGETS, description="how much is tried"),
            _integer("num_candidates", None, "how many instructions and sets of demos, in place of auto", 2, 1_000),
            _integer("num_trials", None, "how many of their combinations; found from num_candidates if left out", 1),
            *_demos(4),
            _THRESHOLD,
            BooleanOption(
                name="minibatch", default=True, description="candidates are scored by a part of the examples"
            ),
            _integer("minibatch_size", _MINIBATCH, "how many examples that are", 1),
            _integer("minibatch_full_eval_steps", 5, "after how many trials all examples score the best", 1),
            _number("init_temperature", 1.0, "of the model that writes instructions"),
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
        "Learns rules and demos from the examples whose answers differ most from run to run.",
        _simba,
        (
            _integer("bsize", _SIMBA_BATCH, "how many examples at a time", 1),
            _integer("num_candidates", 6, "how many programs each time", 1, 1_000),
            _integer("max_steps", 8, "how often", 1, 1_000),
            _integer("max_demos", 4, "most demos of a predictor; 0: only rules", 0, 1_000),
            _number("temperature_for_sampling", 0.2, "of the choice of programs that are run"),
            _number("temperature_for_candidates", 0.2, "of the choice of programs that are changed"),
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
            ChoiceOption(name="auto", default="light", choices=_BUDGETS, description="how much is tried"),
            _integer("max_full_evals", None, "how often all examples may be scored, in place of auto", 1),
            _integer("max_metric_calls", None, "how often the metric may be asked, in place of auto", 1, 10_000_000),
            ModelOption(name="reflection_lm", description="the model that reflects; the program's if left out"),
            _integer("reflection_minibatch_size", 3, "how many runs it sees at a time", 1, 1_000),
            ChoiceOption(
                name="candidate_selection_strategy",
                default="pareto",
                choices=("pareto", "current_best"),
                description="which candidate is changed next",
            ),
            BooleanOption(name="skip_perfect_score", default=True, description="runs that are perfect teach nothing"),
            _number("perfect_score", 1.0, "what a perfect run scores"),
            BooleanOption(name="use_merge", default=True, description="good candidates are merged"),
            _integer("max_merge_invocations", 5, "how often", 0),
            _seed(),
        ),
        takes_valset=True,
        budgets=("auto", "max_full_evals", "max_metric_calls"),
        gives_feedback=True,
    ),
    OptimizerEntry(
        "dspy.InferRules",
        "Has a model find rules in the examples, and adds those that help to the instructions.",
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
        "Has several versions of the program vote: the answer of most of them is its own; asks no model.",
        _ensemble,
        (
            IntegersOption(
                name="versions", minimum=1, maximum=10_000, most=MAX_MEMBERS, description="which; all if left out"
            ),
        ),
        needs_metric=False,
        least_examples=0,
    ),
)

#: By name.
ENTRIES: Final[Mapping[str, OptimizerEntry]] = {entry.name: entry for entry in _SHOWN}
