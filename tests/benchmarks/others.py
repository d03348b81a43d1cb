"""A folder of images through other libraries for it, each as its own examples do.

    python -m tests.benchmarks.others timm|ray FOLDER

prints the images. None of them is a dependency of Handful: `pip install torch timm "ray[data]"`.
"""

import os
import sys

import numpy as np

BATCH = 32
N_CORES = os.cpu_count() or 1


def with_timm(folder: str) -> int:
    """Classify as the script `inference.py` of timm does: PyTorch, a loader process for each core."""
    import torch
    from timm import create_model
    from timm.data import create_dataset, create_loader

    model = create_model("mobilenetv2_035", num_classes=4).eval()
    loader = create_loader(
        create_dataset("", root=folder), (3, 224, 224), BATCH, num_workers=N_CORES,
        use_prefetcher=False, device=torch.device("cpu"),
    )  # fmt: skip
    labels: list[int] = []
    with torch.inference_mode():
        for images, _ in loader:
            labels += model(images).softmax(-1).argmax(-1).tolist()
    return len(labels)


class Classifier:
    """The network of the plain script, in a process of Ray's."""

    def __init__(self) -> None:
        from tests.benchmarks.plain import network

        self._model = network()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the label of each image, int (N,)."""
        return {"label": self._model.predict(batch["image"], verbose=0).argmax(1)}


def with_ray(folder: str) -> int:
    """Classify with Ray Data: it reads and decodes in processes of its own, Keras predicts in one."""
    import ray

    images = ray.data.read_images(folder, size=(224, 224), mode="RGB")
    told = images.map_batches(Classifier, batch_size=BATCH, concurrency=1)
    return sum(1 for _ in told.iter_rows())


if __name__ == "__main__":
    print({"timm": with_timm, "ray": with_ray}[sys.argv[1]](sys.argv[2]))
