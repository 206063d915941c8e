"""Readers, partitions and the local training that the attacks run on."""

import gzip

import numpy as np
import pytest

from bench.attacks.data import Images, load_digits, load_images, read_idx
from bench.attacks.partition import dirichlet_parts, sorted_parts
from bench.attacks.training import LocalTraining, Network, accuracy, as_features, softmax


def idx(shape, values, kind=8):
    return bytes([0, 0, kind, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + bytes(values)


@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file_is_read_compressed_or_not(tmp_path, packed):
    content = idx((2, 2, 3), range(12))
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read_idx(path).tolist() == np.arange(12).reshape(2, 2, 3).tolist()


@pytest.mark.parametrize("content", [idx((2, 2), range(3)), idx((2,), range(2), kind=13), b"\1" + idx((2,), b"ab")[1:]])
def test_what_is_no_idx_file_of_bytes_is_refused(tmp_path, content):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(ValueError, match="no idx file"):
        read_idx(tmp_path / "images")


def mnist_folder(tmp_path, labels):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx((2, 2, 2), range(8)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx((len(labels),), labels)))


def test_mnist_is_taken_where_it_is_and_the_digits_where_not(tmp_path):
    assert load_images(tmp_path).name == "scikit-learn's digits"
    mnist_folder(tmp_path, [7, 1])
    data = load_images(tmp_path)
    assert (data.name, data.training.labels.tolist(), data.training.pixels.shape) == ("MNIST", [7, 1], (2, 4))


def test_images_without_their_labels_are_refused(tmp_path):
    mnist_folder(tmp_path, [7])
    with pytest.raises(ValueError, match="2 images and 1 labels"):
        load_images(tmp_path)


def test_the_digits_are_split_into_parts_without_overlap():
    data = load_digits()
    assert (len(data.training), len(data.held_out)) == (1438, 359)
    assert data.training.pixels.max() == 255


LABELS = np.repeat(np.arange(10), 300)


@pytest.mark.parametrize("alpha", [0.5, 0.1])
def test_dirichlet_parts_cover_every_row_once(alpha):
    parts = dirichlet_parts(LABELS, 20, alpha, np.random.default_rng(0))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(LABELS)))
    assert min(map(len, parts)) >= 15


def largest_share(parts):
    return np.mean([np.bincount(LABELS[part], minlength=10).max() / len(part) for part in parts])


def test_a_smaller_alpha_makes_devices_less_alike():
    shares = [largest_share(dirichlet_parts(LABELS, 20, alpha, np.random.default_rng(0))) for alpha in (0.1, 0.5, 100)]
    assert shares[0] > shares[1] > shares[2]
    assert shares[0] > 0.5
    assert shares[2] < 0.2


def test_the_same_seed_gives_the_same_parts():
    first, second = (dirichlet_parts(LABELS, 20, 0.1, np.random.default_rng(5)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_sorted_parts_are_equal_and_hold_few_labels():
    shuffled = np.random.default_rng(0).permutation(LABELS)
    parts = sorted_parts(shuffled, 20)
    assert {len(part) for part in parts} == {150}
    assert all(len(set(shuffled[part])) == 1 for part in parts)


@pytest.mark.parametrize("hidden", [0, 6])
def test_a_step_goes_down_the_numerical_gradient(hidden):
    generator = np.random.default_rng(2)
    network = Network(5, hidden, 3)
    models = np.stack([network.initial(generator) for _ in range(2)])
    features = generator.normal(size=(2, 8, 5)).astype(np.float32)
    labels = generator.integers(0, 3, (2, 8))

    def loss(model, device):
        shares = softmax(network.scores(model[None].astype(np.float64), features[device][None].astype(np.float64))[-1])
        return -np.log(shares[0, np.arange(8), labels[device]]).mean()

    after = models.copy()
    network.descend(after, features, labels, 1.0)
    for device in (0, 1):
        for coordinate in range(0, network.size, 7):
            step = np.zeros(network.size)
            step[coordinate] = 1e-5
            slope = (loss(models[device] + step, device) - loss(models[device] - step, device)) / 2e-5
            assert (models - after)[device, coordinate] == pytest.approx(slope, abs=1e-3)


def test_training_learns_and_leaves_the_model_alone():
    data, generator = load_digits(), np.random.default_rng(0)
    network = Network(64, 16)
    model = network.initial(generator)
    before = model.copy()
    rows = sorted_parts(data.training.labels, 3)
    parts = [Images(data.training.pixels[part], data.training.labels[part]) for part in rows]
    deltas = LocalTraining(steps=2).deltas(network, model, parts, generator)
    assert deltas.shape == (3, network.size)
    assert (model == before).all()
    for _ in range(60):
        model = model + LocalTraining(steps=2).deltas(network, model, [data.training], generator)[0]
    assert accuracy(network, model, as_features(data.held_out.pixels), data.held_out.labels) > 0.8


def test_a_network_of_the_tables_has_25450_weights():
    assert Network(784, 32).size == 25_450
