"""The record of a training."""

from __future__ import annotations

from mlaas4hep.train.callbacks import EarlyStopping, EpochRecord, History


def test_a_history_as_csv_has_one_line_an_epoch_and_empty_cells() -> None:
    history = History((EpochRecord(1, 0.5, 0.6, 0.7, 10, 1.5), EpochRecord(2, 0.25)), best_epoch=1)
    assert history.to_csv().splitlines() == [
        "epoch,train_loss,validation_loss,validation_auc,events,seconds",
        "1,0.5,0.6,0.7,10,1.5",
        "2,0.25,,,0,0.0",
    ]


def test_a_loss_that_only_equals_the_best_is_no_improvement() -> None:
    watch = EarlyStopping(patience=2)
    assert [watch.improved(0.5), watch.improved(0.5), watch.stop, watch.improved(0.5), watch.stop] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert watch.best_epoch == 1
