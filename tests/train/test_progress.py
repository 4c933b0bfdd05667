import json

from mdr_dist.train.progress import Progress


def test_it_survives_json_at_the_start_and_later() -> None:
    for progress in (
        Progress(),
        Progress(stage=1, epoch=2, step=3, total=40, best=-0.25, best_at=30, stale=1),
    ):
        text = json.dumps(progress.to_json(), allow_nan=False)
        assert Progress.from_json(json.loads(text)) == progress
    assert Progress(best=0.5, best_at=4).to_json() == {
        "stage": 0, "epoch": 0, "step": 0, "total": 0, "best": 0.5, "best_at": 4, "stale": 0
    }  # fmt: skip
