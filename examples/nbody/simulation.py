"""The charged-particles data set of the EGNN paper, simulated.

Five charged particles in space, free but for the Coulomb force. The recipe fixes the data down to the order in
which random numbers are drawn, so that test errors compare with published ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from examples.common.checks import within

TIME_STEP = 0.001
STEPS_PER_FRAME = 100
MAX_FORCE = 100.0
SPEED = 0.5
BOX = 5.0
PARTICLES = 5
# Small enough that the arrays of one chunk stay in the processor's cache through all time steps.
CHUNK = 500


@dataclass(frozen=True)
class Recipe:
    """Which trajectories to draw, and which of them to integrate.

    Parameters
    ----------
    train, val, test : int
        Trajectories wanted of each split, its first ones.
    stream : tuple of int
        Trajectories that the random stream holds for each split, in the same order. Those not wanted are drawn
        all the same, so the test set does not depend on how many are used for training.
    seed : int
        Seed of the random stream.
    first_frame, last_frame : int
        Range of frames to keep, both included. Frame k shows the system after 100 (k + 1) time steps.
    """

    train: int = 3000
    val: int = 2000
    test: int = 2000
    stream: tuple[int, int, int] = (10_000, 2_000, 2_000)
    seed: int = 43
    first_frame: int = 30
    last_frame: int = 40

    def __post_init__(self) -> None:
        within("data.trajectories.seed", self.seed, 0, 2**32 - 1)
        for name, available in zip(("train", "val", "test"), self.stream, strict=True):
            within(f"data.trajectories.{name}", getattr(self, name), 1, available)
        if not 0 <= self.first_frame <= self.last_frame:
            raise ValueError(
                f"data.trajectories.first_frame, last_frame: got {self.first_frame} and {self.last_frame}, "
                "wanted 0 <= first_frame <= last_frame"
            )


def draw_initial_states(rng: np.random.RandomState, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw charges, positions and velocities, trajectory by trajectory.

    Returns
    -------
    charges : ndarray, (count, 5)
    positions, velocities : ndarray, (count, 3, 5)
    """
    charges = np.empty((count, PARTICLES))
    positions = np.empty((count, 3, PARTICLES))
    velocities = np.empty((count, 3, PARTICLES))
    for k in range(count):
        charges[k] = rng.choice([-1.0, 0.0, 1.0], size=(PARTICLES, 1), p=[0.5, 0.0, 0.5])[:, 0]
        positions[k] = rng.randn(3, PARTICLES)
        velocities[k] = rng.randn(3, PARTICLES)
        # Measurement noise of amplitude zero, for 49 frames of positions and velocities: it only advances the stream.
        rng.randn(2 * 49 * 3 * PARTICLES)
    velocities *= SPEED / np.linalg.norm(velocities, axis=1, keepdims=True)
    return charges, *reflect_into_box(positions, velocities)


def reflect_into_box(positions: np.ndarray, velocities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror what starts outside the box at its walls, and turn its velocity inwards."""
    outside = np.abs(positions) > BOX
    side = np.sign(positions)
    positions = np.where(outside, 2 * BOX * side - positions, positions)
    velocities = np.where(outside, -side * np.abs(velocities), velocities)
    return positions, velocities


def integrate(
    charges: np.ndarray, positions: np.ndarray, velocities: np.ndarray, first_frame: int, last_frame: int
) -> tuple[np.ndarray, np.ndarray]:
    """Move many systems at once, time step by time step.

    Parameters
    ----------
    charges : ndarray, (systems, 5)
    positions, velocities : ndarray, (systems, 3, 5)
    first_frame, last_frame : int
        Range of frames to return.

    Returns
    -------
    positions, velocities : ndarray, (systems, frames, 5, 3)
    """
    # Systems last: every operation then runs over long contiguous rows.
    q = np.ascontiguousarray(charges.T)
    x = np.ascontiguousarray(positions.transpose(1, 2, 0))
    v = np.ascontiguousarray(velocities.transpose(1, 2, 0))
    i, j = np.triu_indices(PARTICLES, k=1)
    products = q[i] * q[j]
    # Each pair pushes i one way and j the other: row i of `incidence` sums the forces on particle i.
    incidence = np.zeros((PARTICLES, len(i)))
    incidence[i, np.arange(len(i))] = 1.0
    incidence[j, np.arange(len(i))] = -1.0

    def force() -> np.ndarray:
        r = x[:, i] - x[:, j]
        square = (r * r).sum(axis=0)
        r *= products / (square * np.sqrt(square))
        return np.clip(incidence @ r, -MAX_FORCE, MAX_FORCE)

    frames_x, frames_v = [], []
    # The recipe starts with a full kick where a leapfrog scheme has half of one.
    v += TIME_STEP * force()
    for step in range(1, STEPS_PER_FRAME * (last_frame + 1) + 1):
        x += TIME_STEP * v
        if step % STEPS_PER_FRAME == 0 and step // STEPS_PER_FRAME > first_frame:
            frames_x.append(x.T.copy())
            frames_v.append(v.T.copy())
        v += TIME_STEP * force()
    return np.stack(frames_x, axis=1), np.stack(frames_v, axis=1)


def simulate(recipe: Recipe, progress: bool = True) -> dict[str, np.ndarray]:
    """Simulate the three splits.

    Returns
    -------
    dict of ndarray
        For each of the splits `train`, `val` and `test`: `<split>_charges` (systems, 5) and `<split>_positions`,
        `<split>_velocities` (systems, frames, 5, 3), float32.
    """
    rng = np.random.RandomState(recipe.seed)
    wanted = {"train": recipe.train, "val": recipe.val, "test": recipe.test}
    data = {}
    with tqdm(total=sum(wanted.values()), desc="Simulating", unit=" systems", disable=not progress) as bar:
        for (split, count), available in zip(wanted.items(), recipe.stream, strict=True):
            initial = [array[:count] for array in draw_initial_states(rng, available)]
            chunks = []
            for start in range(0, count, CHUNK):
                chunk = [array[start : start + CHUNK] for array in initial]
                chunks.append(integrate(*chunk, recipe.first_frame, recipe.last_frame))
                bar.update(len(chunk[0]))
            positions, velocities = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
            data[f"{split}_charges"] = initial[0].astype(np.float32)
            data[f"{split}_positions"] = positions.astype(np.float32)
            data[f"{split}_velocities"] = velocities.astype(np.float32)
    return data
