"""The classic walk, second part: 1797 handwritten digits of 8 x 8 pixels, ten clusters."""

from pathlib import Path

import matplotlib.pyplot as plt
from figures import CMAP, COLORS, like, parser, save
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, v_measure_score

from dkmeans import KMeans


def run(to: Path) -> dict[str, float]:
    """Draw the centres and a projection; return the agreement of clusters and digits."""
    images, digits = load_digits(return_X_y=True)  # (1797, 64), (1797,)
    km = KMeans(n_clusters=10, n_init=4, random_state=0).fit(images)
    numbers = like(digits, km.labels_)  # each cluster is called by the digit it holds most of

    scores = {
        "adjusted Rand": adjusted_rand_score(digits, km.labels_),
        "v-measure": v_measure_score(digits, km.labels_),
    }
    agreement = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    print(f"digits: {km.n_iter_} iterations, inertia {km.inertia_:.0f}, {agreement}")

    figure, axes = plt.subplots(2, 5, figsize=(8, 3.9))
    for cluster, number in enumerate(numbers):
        here = axes.flat[number]
        here.imshow(km.cluster_centers_[cluster].reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
        here.set_title(f"“{number}”, {km.counts_[cluster]} images")
        here.set(xticks=[], yticks=[])
        here.spines[:].set_visible(True)
    figure.suptitle("The centres of ten clusters")
    save(figure, to / "digits-centres.png")

    plane = PCA(n_components=2).fit(images)
    figure, both = plt.subplots(1, 2, figsize=(8, 4.3), sharex=True, sharey=True)
    for here, title, colors in (
        (both[0], "coloured by cluster", numbers[km.labels_]),
        (both[1], "coloured by digit", digits),
    ):
        points = here.scatter(*plane.transform(images).T, c=colors, cmap=CMAP, s=9, lw=0)
        here.set_title(title)
        here.set_xlabel("first principal component")
    for number, center in zip(numbers, plane.transform(km.cluster_centers_), strict=True):
        both[0].annotate(
            str(number), center, ha="center", va="center", size=8, weight="bold",
            bbox={"boxstyle": "circle,pad=0.2", "fc": "white", "ec": COLORS[number], "lw": 1.5},
        )  # fmt: skip
    both[0].set_ylabel("second principal component")
    figure.legend(
        *points.legend_elements(), loc="outside lower center", ncols=10, frameon=False,
        handletextpad=0.1, columnspacing=1.2,
    )  # fmt: skip
    figure.suptitle(f"Clusters and digits: {agreement}")
    save(figure, to / "digits-pca.png")
    return scores


if __name__ == "__main__":
    run(parser(__doc__).parse_args().to)
