"""Measures of how well hidden representations keep classes apart: clusters and graph signals."""

import math
from itertools import pairwise
from statistics import mean, median

import torch
from torch import Tensor, nn

from gengap.errors import NotAvailable
from gengap.measures import measure, work
from gengap.measures.sensitivity import mixup_error
from gengap.measures.stages import has_strides, last_representations, seeded, split_at
from gengap.model import Model

GRAPH = 500  # vertices of a graph


@measure
@work(images=1_200)
def davies_bouldin_index(model: Model, *, draws: int = 10, images: int = 120) -> float:
    r"""How little the first convolution separates the classes, as clusters. No unit.

    .. math:: \operatorname{mean} \, \frac1K \sum_{i=1}^K \max_{j \ne i} \frac{s_i + s_j}{d_{ij}}

    over draws of `images` random images, :math:`s_i` the mean distance of class :math:`i` to its
    centroid, :math:`d_{ij}` the distance of two centroids (`davies_bouldin`). The first of the
    first three stages that convolves or pools is read, max-pooled 4 x 4 and flattened. 0 for
    separate points.

    Source:
        Natekar and Sharma 2020 (arXiv 2012.02775), winners of the PGDL competition.

    Differs:
        images are drawn from the whole sample, the released code shuffles 5,000 at a time; an
        output smaller than 4 x 4 is pooled whole.

    Raises:
        NotAvailable: without a training sample, or where the first three stages neither convolve
            nor pool.
    """
    inputs, labels = model.sample
    strided = [place for place, stage in enumerate([*model.network][:3]) if has_strides(stage)]
    if not strided:
        raise NotAvailable("davies_bouldin_index needs a convolution or pooling as its first stage")
    first_stages, _ = split_at(model.network, strided[0] + 1)
    indices = _shuffled_repeats(len(labels), draws * images).to(labels.device)
    scores = [
        davies_bouldin(_pooled(first_stages, inputs[part]), labels[part])
        for part in indices.split(images)
    ]
    return mean(scores)


@measure
@work(images=1_200, per_class=600)
def davies_bouldin_mixup(model: Model) -> float:
    """The Davies-Bouldin index times the mixup error: unclear clusters and unsteady predictions.

    The product of `davies_bouldin_index` and `mixup_error`. No unit.

    Source:
        Natekar and Sharma 2020 (arXiv 2012.02775), winning solution of the PGDL competition.

    Raises:
        NotAvailable: where `davies_bouldin_index` or `mixup_error` is.
    """
    return davies_bouldin_index(model) * mixup_error(model)


def davies_bouldin(features: Tensor, labels: Tensor) -> float:
    r"""The Davies-Bouldin index of classes as clusters.

    .. math:: \frac1K \sum_{i=1}^K \max_{j \ne i} \frac{s_i + s_j}{d_{ij}}

    features (N, D), labels (N,); :math:`s` is the mean distance to the class's centroid,
    :math:`d_{ij}` the distance of two centroids. As in scikit-learn, centroids that coincide do not
    count, and the index is 0 where all do or where all features lie in their centroids.
    """
    features = features.double()
    present, members = labels.unique(return_inverse=True)
    belongs = nn.functional.one_hot(members, len(present)).to(features)
    counts = belongs.sum(0)
    centroids = (belongs.T @ features) / counts[:, None]
    scatter = belongs.T @ (features - centroids[members]).norm(dim=1) / counts
    distances = (centroids[:, None] - centroids).norm(dim=2)
    if max(float(scatter.max()), float(distances.max())) < 1e-8:
        return 0.0
    ratios = (scatter[:, None] + scatter) / distances.where(distances > 0, math.inf)
    return float(ratios.amax(1).mean())


def _shuffled_repeats(population: int, count: int) -> Tensor:
    """Indices of one pass after another in random order, (count,)."""
    generator = seeded()
    passes = range(math.ceil(count / population))
    return torch.cat([torch.randperm(population, generator=generator) for _ in passes])[:count]


@torch.no_grad()
def _pooled(stages: nn.Sequential, images: Tensor) -> Tensor:
    outputs = torch.cat([stages(part) for part in images.split(40)])
    window = [min(4, side) for side in outputs.shape[2:]]
    return nn.functional.max_pool2d(outputs, window).flatten(1)


@measure
@work(images=500)
def vpm(model: Model) -> float:
    r"""Variation of labels in the penultimate representation of mixtures of images. In [0, 1/2].

    .. math:: \frac{\operatorname{tr}(Y^T L Y)}{4 V} , \qquad L = I - D^{-1/2} A D^{-1/2}

    500 images, as many of each class, are mixed in pairs, the weight drawn from Beta(2, 2). The
    graph :math:`A` with degrees :math:`D` joins each of the :math:`V` mixtures to its nearest
    neighbour (normalized features, at the input of the last stage); :math:`Y` are the mixed labels.
    No unit.

    Source:
        Lassance et al. 2020 (arXiv 2011.12737), VPM, third place of the PGDL competition, with one
        graph as submitted in the end.

    Differs:
        the released code leaves edges directed, for which that Laplacian is not defined; here the
        graph is undirected. Its Gaussian kernel changes neither neighbours nor the edges, which
        weigh 1. A class with too few images gives all that it has.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    return _penultimate_variation(model, graphs=1)


@measure
@work(images=40_000)
def vpm_80(model: Model) -> float:
    """Variation of labels in the penultimate representation of mixtures: median of 80 graphs.

    The formula of `vpm`, with other images and mixtures in each graph.

    Source:
        Lassance et al. 2020 (arXiv 2011.12737), VPM with 80 graphs, the participants' own choice
        before the competition limited the time.

    Differs:
        as `vpm`.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    return _penultimate_variation(model, graphs=80)


def _penultimate_variation(model: Model, *, graphs: int) -> float:
    generator = seeded()
    return median(_mixed_variation(model, generator) for _ in range(graphs))


def _mixed_variation(model: Model, generator: torch.Generator) -> float:
    inputs, labels = model.sample
    chosen = class_balanced(labels, GRAPH, generator)
    images, signal = inputs[chosen], nn.functional.one_hot(labels[chosen]).to(inputs)
    partner = torch.randperm(len(chosen), generator=generator).to(labels.device)
    # The middle of three uniform draws has the distribution Beta(2, 2).
    weight = torch.rand(len(chosen), 3, generator=generator).median(1).values.to(inputs)
    features, _ = last_representations(model.network, _mixed(images, partner, weight), 1)
    return nearest_neighbour_variation(features, _mixed(signal, partner, weight))


def _mixed(values: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    weight = weight.view(-1, *[1] * (values.ndim - 1))
    return weight * values + (1 - weight) * values[partner]


@measure
@work(images=5_500)
def vr(model: Model, *, graphs: int = 11, neighbours: int = 20) -> float:
    r"""Rate at which the variation of labels changes over the last two stages. No unit.

    .. math:: \operatorname{median} \, \frac12 \sum_{l=1}^2 \lvert v_{l+1} - v_l \rvert , \qquad
       v = \frac{\operatorname{tr}(Y^T L Y)}{200 V} , \quad L = D - A ,

    on the inputs of the last two stages and the logits, :math:`l = 1, 2, 3`: :math:`A` is the graph
    of cosines (negative ones count as 0) to the 20 nearest of the :math:`V = 500` images, :math:`D`
    its degrees, :math:`Y` the labels. The median is over the first 11 batches of 500 images, or of
    one batch with all where there are fewer than 500.

    Source:
        Lassance et al. 2020 (arXiv 2011.12737), VR; released code.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    inputs, labels = model.sample
    size = min(GRAPH, len(labels))
    rates = []
    for batch in range(min(graphs, len(labels) // size)):
        part = slice(batch * size, (batch + 1) * size)
        signal = nn.functional.one_hot(labels[part]).double()
        layers = last_representations(model.network, inputs[part], 2)
        variations = [cosine_variation(layer, signal, neighbours) for layer in layers]
        rates.append(mean(abs(b - a) for a, b in pairwise(variations)))
    return median(rates)


@measure
@work(images=500)
def wcv(model: Model) -> float:
    r"""Variation of labels where it is worst, over the last third of the stages. In [0, 1/2].

    .. math:: \max_l \frac{\operatorname{tr}(Y^T L_l Y)}{4 V}

    as in `vpm` without mixing, of the first images of each class, at the inputs :math:`l` of the
    last third of the stages and of the one before. No unit.

    Source:
        Lassance et al. 2020 (arXiv 2011.12737), WCV.

    Differs:
        the released code takes ten classes for granted; here 500 images are shared out over those
        there are.

    Raises:
        NotAvailable: if the collection has no training sample.
    """
    inputs, labels = model.sample
    chosen = class_balanced(labels, GRAPH)
    signal = nn.functional.one_hot(labels[chosen])
    stages = len(model.network) // 3 + 1
    *layers, _ = last_representations(model.network, inputs[chosen], stages)
    return max(nearest_neighbour_variation(layer, signal) for layer in layers)


def class_balanced(labels: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Indices of count / classes samples of each class, or of all that a class has.

    Random ones if a generator is given, otherwise the first.
    """
    classes = labels.unique()
    chosen = []
    for label in classes:
        members = (labels == label).nonzero().squeeze(1)
        if generator is not None:
            members = members[torch.randperm(len(members), generator=generator).to(labels.device)]
        chosen.append(members[: max(1, count // len(classes))])
    return torch.cat(chosen)


def nearest_neighbour_variation(features: Tensor, signal: Tensor) -> float:
    """tr(Y' L Y) / (4 n) on the graph of nearest neighbours of the normalized features.

    features (n, D), signal Y (n, K); edges weigh 1, L is the normalized Laplacian.
    """
    unit = nn.functional.normalize(features.double(), eps=1e-6)
    edges = nearest_edges(1 - torch.cdist(unit, unit).square() / 2, 1)
    degrees = edges.double().sum(1, keepdim=True)
    return _variation(edges, signal / degrees.sqrt()) / (4 * len(signal))


def cosine_variation(features: Tensor, signal: Tensor, neighbours: int) -> float:
    """tr(Y' L Y) / (200 n) on the graph of cosines, clipped to [0, 1], L = D - A."""
    unit = nn.functional.normalize(features.double(), eps=1e-6)
    cosines = (unit @ unit.T).clamp(0, 1)
    weights = cosines * nearest_edges(cosines, neighbours)
    return _variation(weights, signal) / (200 * len(signal))


def _variation(weights: Tensor, signal: Tensor) -> float:
    """tr(Y' L Y) as the sum over edges of weight times squared difference: exactly 0 if none is."""
    one, other = weights.nonzero(as_tuple=True)  # few of all pairs: a graph of near neighbours
    apart = (signal[one] - signal[other]).square().sum(1)
    return float((weights[one, other] * apart).sum() / 2)


def nearest_edges(similarity: Tensor, neighbours: int) -> Tensor:
    """Who is among the nearest of whom, or the other way round: (n, n) bool, symmetric.

    Similarities are compared in float32, as the released code computes them: what float32 cannot
    tell apart is a tie, and a tie with the last neighbour is a neighbour too. Nobody is their own.
    """
    others = similarity.float().fill_diagonal_(-math.inf)
    near = others >= others.topk(min(neighbours, len(others) - 1)).values[:, -1:]
    return near | near.T
