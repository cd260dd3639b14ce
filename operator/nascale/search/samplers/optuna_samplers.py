"""Optuna's samplers for several objectives: TPE, NSGA-II, NSGA-III, and a Gaussian process.

Each call rebuilds the study from the history (``optuna_replay``) and seeds a fresh sampler from the search's
seed and the next trial's index.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.samplers._ga import BaseGASampler
from optuna.trial import TrialState

from nascale.search.errors import MissingDependencyError
from nascale.search.history import Proposal, TrialRecord
from nascale.search.novelty import Novelty, by_index, generator, next_index, propose_new
from nascale.search.problem import SearchProblem
from nascale.search.samplers import optuna_replay
from nascale.search.samplers.variation import mutate
from nascale.search.settings import DecimalSetting, Setting, Settings, SwitchSetting, WholeSetting, read
from nascale.search.space import Assignment

# Some features that a setting may switch on are marked experimental: their use is the user's choice.
warnings.filterwarnings("ignore", category=ExperimentalWarning, module=r"nascale\.search\.samplers")

MUTATIONS = 16
"""Mutations tried where Optuna repeats itself, before a uniform draw stands in."""

_STARTUP = WholeSetting("startupTrials", default=10, low=1, high=10_000)
_POPULATION: tuple[Setting, ...] = (
    WholeSetting("populationSize", default=50, low=2, high=10_000),
    DecimalSetting("crossoverProbability", default=0.9, low=0.0, high=1.0),
    DecimalSetting("swappingProbability", default=0.5, low=0.0, high=1.0),
)


class OptunaSampler(ABC):
    """What the samplers share: replay, ask, no candidate twice (Optuna's own run would repeat itself)."""

    NAME = ""
    SETTINGS: tuple[Setting, ...] = ()
    QUESTIONS = 2
    """How often Optuna is asked for one candidate before a mutation of its last answer stands in: most of
    its samplers change their mind little, and a question is expensive."""

    def propose(self, problem: SearchProblem, history: Sequence[TrialRecord], count: int) -> list[Proposal]:
        """Propose up to ``count`` new candidates (see ``sampler.Sampler``)."""
        settings = read(self.NAME, self.SETTINGS, problem.settings)
        novelty = Novelty(problem.space, history)
        if novelty.exhausted:
            return []
        study = self._study(problem, history, settings)
        rng = generator(problem, history)
        repeated: list[Assignment] = []

        def suggest() -> tuple[Assignment, str]:
            if len(repeated) >= self.QUESTIONS:
                # Optuna insists: something close to what it wants, farther away each time.
                changes = 1 + len(repeated) - self.QUESTIONS
                repeated.append(mutate(problem.space, repeated[self.QUESTIONS - 1], rng, changes))
                return repeated[-1], f"{self.NAME} mutation"
            trial = study.ask()
            assignment = optuna_replay.suggest(trial, problem.space)
            if assignment in novelty:
                study.tell(trial, state=TrialState.FAIL)
                repeated.append(assignment)
            return assignment, self.NAME

        proposals: list[Proposal] = []
        while len(proposals) < count:
            repeated.clear()
            found = propose_new(novelty, rng, 1, suggest, self.QUESTIONS + MUTATIONS)
            if not found:
                break
            proposals += found
        return proposals

    @abstractmethod
    def _sampler(self, settings: Settings, seed: int) -> BaseSampler:
        """Return Optuna's sampler."""

    def _study(self, problem: SearchProblem, history: Sequence[TrialRecord], settings: Settings) -> Study:
        """Return the study that the history makes."""
        study = optuna.create_study(
            directions=optuna_replay.directions(problem),
            sampler=self._sampler(settings, derived_seed(problem.seed, next_index(history))),
        )
        study.add_trials(optuna_replay.frozen_trials(problem, history))
        return study


def derived_seed(seed: int, *path: int) -> int:
    """Derive an independent 32-bit seed from the search's."""
    return int(np.random.SeedSequence((abs(seed), *path)).generate_state(1)[0])


class TPE(OptunaSampler):
    """Multi-objective tree-structured Parzen estimator (Ozaki et al., JAIR 73, 2022)."""

    NAME = "TPE"
    SETTINGS: tuple[Setting, ...] = (
        _STARTUP,
        WholeSetting("expectedImprovementCandidates", default=24, low=1, high=10_000),
        SwitchSetting("multivariate", default=False),
        SwitchSetting("constantLiar", default=True),
    )

    def _sampler(self, settings: Settings, seed: int) -> BaseSampler:
        joint = settings.switch("multivariate")
        return TPESampler(
            n_startup_trials=settings.whole("startupTrials"),
            n_ei_candidates=settings.whole("expectedImprovementCandidates"),
            multivariate=joint,
            # With conditions only groups of parameters can be modelled together.
            group=joint,
            constant_liar=settings.switch("constantLiar"),
            seed=seed,
        )


class _Genetic(OptunaSampler):
    """Replays generations, so that the algorithm is the one that Optuna runs.

    Optuna gives a trial its generation when it asks for it: the latest one among the complete trials, or the
    next one where that has ``populationSize`` complete trials. In the order of the indices this follows
    from the history. The parents of each generation are chosen in order, with random numbers of the
    generation's own, so that later calls choose the same ones.
    """

    SETTINGS = _POPULATION
    QUESTIONS = 16

    @abstractmethod
    def _sampler(self, settings: Settings, seed: int) -> BaseGASampler:
        """Return Optuna's sampler."""

    def _study(self, problem: SearchProblem, history: Sequence[TrialRecord], settings: Settings) -> Study:
        sampler = self._sampler(settings, derived_seed(problem.seed, next_index(history)))
        # Optuna has no public name for the attribute; a test against Optuna's own run guards it.
        key = sampler._get_generation_key()  # noqa: SLF001
        complete = [
            optuna_replay.state_of(problem, record) is TrialState.COMPLETE for record in by_index(history)
        ]
        generations, following = replay_generations(complete, settings.whole("populationSize"))
        study = optuna.create_study(
            directions=optuna_replay.directions(problem),
            sampler=sampler,
        )
        attributes = [{key: generation} for generation in generations]
        study.add_trials(optuna_replay.frozen_trials(problem, history, attributes))
        for generation in range(1, following + 1):
            chooser = self._sampler(settings, derived_seed(problem.seed, 0, generation))
            chooser.get_parent_population(study, generation)
        return study


def replay_generations(complete: Sequence[bool], population_size: int) -> tuple[list[int], int]:
    """Return the generation of each trial in order, and that of the next one.

    Args:
        complete: For each trial, whether it counts as a member of its generation.
        population_size: Complete trials that a generation needs before the next one begins.
    """
    generations: list[int] = []
    latest = members = 0
    for is_complete in complete:
        generation = latest + (members >= population_size)
        generations.append(generation)
        if is_complete:
            members = 1 if generation > latest else members + 1
            latest = generation
    return generations, latest + (members >= population_size)


class NSGAII(_Genetic):
    """NSGA-II (Deb et al., IEEE Trans. Evol. Comp. 6(2), 2002)."""

    NAME = "NSGAII"

    def _sampler(self, settings: Settings, seed: int) -> BaseGASampler:
        return NSGAIISampler(
            population_size=settings.whole("populationSize"),
            crossover_prob=settings.decimal("crossoverProbability"),
            swapping_prob=settings.decimal("swappingProbability"),
            seed=seed,
        )


class NSGAIII(_Genetic):
    """NSGA-III (Deb and Jain, IEEE Trans. Evol. Comp. 18(4), 2014): for many objectives."""

    NAME = "NSGAIII"
    SETTINGS = (*_POPULATION, WholeSetting("divisions", default=3, low=1, high=16))

    def _sampler(self, settings: Settings, seed: int) -> BaseGASampler:
        return NSGAIIISampler(
            population_size=settings.whole("populationSize"),
            crossover_prob=settings.decimal("crossoverProbability"),
            swapping_prob=settings.decimal("swappingProbability"),
            dividing_parameter=settings.whole("divisions"),
            seed=seed,
        )


class GP(OptunaSampler):
    """Gaussian process with expected hypervolume improvement; needs the extra ``gp``."""

    NAME = "GP"
    SETTINGS: tuple[Setting, ...] = (_STARTUP,)
    QUESTIONS = 1

    def __init__(self) -> None:
        missing = [name for name in ("scipy", "torch") if find_spec(name) is None]
        if missing:
            raise MissingDependencyError(
                "algorithm.name: must be another one than GP where the extra gp is not installed "
                f"({' and '.join(missing)} missing): pip install 'nascale[gp]'"
            )

    def _sampler(self, settings: Settings, seed: int) -> BaseSampler:
        return GPSampler(
            seed=seed, n_startup_trials=settings.whole("startupTrials"), warn_independent_sampling=False
        )
