"""Learning by whatever kind of learner there is: batch by batch, from a table in memory, from pages on disk.

Between `mlaas4hep.train.run`, which knows the run, and the loops, which know one kind each. Invariant: the kind is the
learner's own; nothing here knows a framework.
"""

from __future__ import annotations

from contextlib import nullcontext

from mlaas4hep.backends.protocol import InMemoryLearner, Learner, NotingLearner, OutOfCoreLearner, StreamingLearner
from mlaas4hep.config.values import Training
from mlaas4hep.progress import Progress
from mlaas4hep.train.callbacks import History, Watch
from mlaas4hep.train.interrupt import Interrupt
from mlaas4hep.train.loop import Part, learn_in_memory, learn_streaming
from mlaas4hep.train.out_of_core import learn_out_of_core
from mlaas4hep.train.standing import Keeper, Standing


def learn(
    learner: Learner,
    train: Part,
    validation: Part | None,
    *,
    settings: Training,
    width: int,
    title: str,
    keeper: Keeper | None,
    standing: Standing,
    interrupt: Interrupt,
    progress: Progress,
    on_epoch: Watch | None = None,
) -> History:
    """Let a learner learn; afterwards it has its best weights.

    Parameters
    ----------
    learner
        Fresh, or brought to where ``standing`` says.
    train, validation
        Parts with training weights.
    settings
        Of the config.
    width
        W, length of the flat view.
    title
        The model in words, for messages.
    keeper, standing
        Of a learner that can be interrupted; `learn_streaming` says how.
    interrupt
        Held while a learner that is kept takes its steps.
    progress
        Told how far it is.
    on_epoch
        As in `learn_streaming`; a learner that does not learn batch by batch has no epochs to tell of.
    """
    if isinstance(learner, NotingLearner):
        for line in learner.notes:
            progress.note(line)
    if isinstance(learner, StreamingLearner):
        with interrupt.held() if keeper else nullcontext():
            return learn_streaming(
                learner,
                train,
                validation,
                epochs=settings.epochs,
                patience=settings.patience,
                progress=progress,
                keeper=keeper,
                standing=standing,
                on_epoch=on_epoch,
            )
    if isinstance(learner, OutOfCoreLearner):
        return learn_out_of_core(
            learner,
            train,
            validation,
            width=width,
            patience=settings.patience,
            max_memory=settings.max_memory_bytes,
            title=title,
            progress=progress,
        )
    assert isinstance(learner, InMemoryLearner)
    return learn_in_memory(
        learner,
        train,
        validation,
        patience=settings.patience,
        max_memory=settings.max_memory_bytes,
        title=title,
        progress=progress,
    )
