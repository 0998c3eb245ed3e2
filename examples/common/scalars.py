"""What experiments have in common that predict one number of some vectors."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn

from examples.common.report import BASELINES, OURS, Report


def describe_scalar(report: Report, algebra: str, grade: int) -> None:
    """Add errors, equivariance, learning curves, and predictions against truth.

    Parameters
    ----------
    report : Report
    algebra : str
    grade : int
        Of the prediction: 0, or the algebra's dimension for a pseudoscalar.
    """
    data, model = report.data, report.model
    training, test = (data.on(model.device, model.dtype, split)[-1] for split in ("train", "test"))
    mean = data.loss_unit * nn.functional.mse_loss(training.mean().expand_as(test), test).item()
    report.figures = {"mean of the training set": mean, **report.figures}
    report.errors_table("mean of the training set")
    report.equivariance(algebra, (1,), grade)
    report.learning_curves(mean_of_the_training_set=mean)
    report.picture(plot_predictions(test, report.predictions()), "predictions", "Predicted against true, test set.")


def plot_predictions(targets: Tensor, predictions: dict[str, Tensor]) -> Figure:
    """One panel for each network, of at most a thousand samples."""
    figure, axes = plt.subplots(
        1, len(predictions), figsize=(3.6 * len(predictions), 3.6), layout="constrained", squeeze=False
    )
    true = targets[:1000].float().cpu().numpy()
    for axis, colour, (name, values) in zip(axes[0], (OURS, *BASELINES), predictions.items(), strict=False):
        axis.plot(true, values[:1000].float().numpy(), ".", color=colour, markersize=2)
        axis.axline((true.min(), true.min()), slope=1, color="black", linewidth=0.5)
        axis.set(title=name, xlabel="true", ylabel="predicted")
    return figure
