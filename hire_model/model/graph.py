"""Stage 4, explicit relations: a spatial graph from boxes and a semantic graph from the scene graph, one step on each.

A graph is a stack of K weighted adjacencies A [K, B, R, R]; row i receives from column j. K is 1 without gates, and
1 + `GATES` if edge labels also gate the messages. The message of an edge with label l is then
(1 + sum_k c_lk u_k) * (W v_j): the basis decomposition of R-GCN (Schlichtkrull et al. 2018, eq. 3) with diagonal
bases, so that "left of" and "holds" send different messages. This is linear in A and costs K matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hire_model.batch import Regions
from hire_model.data.boxes import SPATIAL_LABELS, compute_iou, compute_offsets, label_spatial_relations
from hire_model.model.implicit_edges import PredictedEdges, mark_pairs
from hire_model.model.layers import Dropout, make_linear
from hire_model.model.predicates import PredicateVectors
from hire_model.settings import ModelSettings

GATES = 4
# Share of the neighbours' message before training (residual form). Untrained recall is about the same from 0.3 to 1.
INITIAL_SHARE = 0.5
TRUST_AT_START = 4.0  # logit: an explicit edge counts almost fully


class EdgeLabels(nn.Module):
    """Weight exp(b_l) and gate coefficients c_l of each edge label; b is initialised to zero."""

    def __init__(self, labels: int, gates: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(labels))
        self.gates = nn.Parameter(torch.randn(labels, gates) * 0.5) if gates else None

    def forward(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map labels [...] int64 >= 0 to weights [...] and coefficients [..., gates]."""
        return self.bias[labels].exp(), None if self.gates is None else self.gates[labels]

    def list_maps(self) -> Tensor:
        """Return the entries that an edge of each label has in the K maps, [labels, K]."""
        weights = self.bias.exp()[:, None]
        return weights if self.gates is None else torch.cat([weights, weights * self.gates], dim=1)


class SpatialGraph(nn.Module):
    """Stage 4a: boxes -> A [K, B, R, R]. Regions without a box have no spatial edges."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.kind, self.threshold = settings.spatial, settings.iou_threshold
        gates = GATES if settings.edge_labels == "gate" and self.kind == "direction11" else 0
        self.labels = None
        if self.kind == "direction11" and settings.edge_labels != "none":
            self.labels = EdgeLabels(len(SPATIAL_LABELS), gates)
        self.maps = 1 + gates
        if self.kind == "polar":
            k = settings.polar_kernels
            self.centre = nn.Parameter(torch.stack([torch.rand(k), (torch.rand(k) * 2 - 1) * math.pi], dim=-1))
            self.spread = nn.Parameter(torch.full((k, 2), -1.0))  # log of the standard deviation
            self.mix = nn.Parameter(torch.zeros(k))
        fills = settings.implicit_edges and self.labels is not None
        self.filled = nn.Parameter(torch.ones(())) if fills else None

    def forward(self, regions: Regions, predicted: PredictedEdges | None = None) -> Tensor:
        """Return A [K, B, R, R], zero between regions without boxes; `GraphStep` adds the diagonal.

        If edges are `predicted`, pairs without an edge get those.
        """
        diagonal = torch.eye(regions.mask.shape[1], dtype=torch.bool, device=regions.mask.device)
        boxed = regions.boxed if regions.graph_boxed is None else regions.boxed & regions.graph_boxed
        pairs = boxed[:, :, None] & boxed[:, None] & ~diagonal
        if self.kind == "iou":
            return ((compute_iou(regions.boxes) >= self.threshold) & pairs)[None].to(regions.boxes.dtype)
        if self.kind == "polar":
            return (self._weigh_offsets(regions.boxes) * pairs)[None]
        labels = label_spatial_relations(regions.boxes)
        edge = (labels >= 0) & pairs
        if self.labels is None:
            return edge[None].to(regions.boxes.dtype)
        weights, gates = self.labels(labels.clamp(min=0))
        weights = weights * edge
        maps = weights[None]
        if gates is not None:
            maps = torch.cat([maps, (weights[..., None] * gates).permute(3, 0, 1, 2)])
        if self.filled is None or predicted is None:
            return maps
        shares = predicted.spatial.detach().softmax(dim=-1)[..., :-1]  # [B, R, R, labels]
        missing = mark_pairs(regions.mask) & ~pairs
        return maps + self.filled * (shares @ self.labels.list_maps()).permute(3, 0, 1, 2) * missing

    def _weigh_offsets(self, boxes: Tensor) -> Tensor:
        """Return weights [B, R, R], a mixture of Gaussian kernels over distance and angle of the box centres.

        Norcliffe-Brown et al. 2018, eq. 8.
        """
        distance, angle = compute_offsets(boxes)
        rho = (distance[..., None] - self.centre[:, 0]) / self.spread[:, 0].exp()
        turn = torch.remainder(angle[..., None] - self.centre[:, 1] + math.pi, 2 * math.pi) - math.pi
        theta = turn / self.spread[:, 1].exp()
        return (torch.exp(-0.5 * (rho.square() + theta.square())) * self.mix.softmax(dim=0)).sum(dim=-1)


class SemanticGraph(nn.Module):
    """Stage 4b: relations -> A [K, B, R, R]. Each relation makes an edge in both directions, with different labels."""

    def __init__(self, settings: ModelSettings, predicates: int) -> None:
        super().__init__()
        self.minimum, self.top, self.predicates = settings.relation_min_score, settings.relation_top, predicates
        labelled = settings.edge_labels != "none" and predicates > 0
        gates = GATES if labelled and settings.edge_labels == "gate" else 0
        self.labels = EdgeLabels(2 * predicates, gates) if labelled else None
        self.maps = 1 + gates
        fills = settings.implicit_edges and labelled
        self.filled = nn.Parameter(torch.ones(())) if fills else None
        self.trust = nn.Parameter(torch.tensor([TRUST_AT_START, 0.0])) if fills else None

    def select_relations(self, regions: Regions) -> Tensor:
        """Return indices [E'] of the relations that make edges.

        They reach model.relation_min_score, are among the model.relation_top strongest of their image, and are not
        loops.
        """
        image, subject, _, object_ = regions.relations.unbind(1)
        scores = regions.relation_scores
        order = torch.argsort(scores, descending=True, stable=True)
        order = order[torch.argsort(image[order], stable=True)]
        counts = torch.bincount(image, minlength=len(regions))
        first = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(order), device=order.device) - first[image[order]]
        chosen = order[rank < self.top]
        return chosen[(scores[chosen] >= self.minimum) & (subject[chosen] != object_[chosen])]

    def forward(self, regions: Regions, predicted: PredictedEdges | None = None) -> Tensor:
        """Return A [K, B, R, R], zero without relations; `GraphStep` adds the diagonal.

        If edges are `predicted`, pairs without a relation get those, and a relation is weighted by how likely it is.
        """
        size = regions.mask.shape[1]
        image, subject, predicate, object_ = regions.relations[self.select_relations(regions)].unbind(1)
        forward, backward = (image * size + subject) * size + object_, (image * size + object_) * size + subject
        cells = torch.cat([forward, backward])
        flat = regions.features.new_zeros(self.maps, len(regions) * size * size)
        if self.labels is None:
            flat[0, cells] = 1
        else:
            weights, gates = self.labels(torch.cat([predicate, predicate + self.predicates]))
            if self.trust is not None and predicted is not None:
                logits = predicted.semantic.detach()[image, subject, object_]  # [E, predicates + 1]
                evidence = logits.gather(1, predicate[:, None])[:, 0] - logits[:, -1]
                weights = weights * torch.sigmoid(self.trust[0] + self.trust[1] * evidence).repeat(2)
            maps = weights[None] if gates is None else torch.cat([weights[None], (weights[:, None] * gates).T])
            flat = flat.index_add(1, cells, maps.to(flat.dtype))
        explicit = flat.view(self.maps, len(regions), size, size)
        if self.filled is None or predicted is None:
            return explicit
        return explicit + self.filled * self._fill(predicted) * self._find_unrelated(regions, cells)

    def _fill(self, predicted: PredictedEdges) -> Tensor:
        """Return the maps [K, B, R, R] of the predicted relations."""
        assert self.labels is not None
        shares = predicted.semantic.detach().softmax(dim=-1)[..., :-1]  # [B, R, R, predicates]
        forward, backward = self.labels.list_maps().split(self.predicates)  # [predicates, K] each
        return (shares @ forward + shares.transpose(1, 2) @ backward).permute(3, 0, 1, 2)

    def _find_unrelated(self, regions: Regions, cells: Tensor) -> Tensor:
        """Return [B, R, R] bool, True for pairs of regions without a relation; `cells` have one."""
        pairs = mark_pairs(regions.mask)
        related = torch.zeros_like(pairs).flatten()
        related[cells] = True
        return pairs & ~related.view_as(pairs)


class GraphStep(nn.Module):
    """One step on a graph: H = LN(V1 + Dropout(ReLU(A^ V1 W))), A^ the row-normalised A with diagonal 1.

    With model.residual: H = Dropout(A^ V1 W) with a zero diagonal and W initialised to the identity. H is then the
    message of the neighbours alone, in the same space as the regions.
    """

    def __init__(self, settings: ModelSettings, maps: int) -> None:
        super().__init__()
        self.weight = make_linear(settings.dim, settings.dim)
        self.residual = settings.residual
        if self.residual:
            nn.init.eye_(self.weight.weight)
        self.basis = nn.Parameter(torch.randn(maps - 1, settings.dim) * 0.5) if maps > 1 else None
        self.dropout = Dropout(settings.dropout)
        self.norm = None if self.residual else nn.LayerNorm(settings.dim)

    def forward(self, v: Tensor, adjacency: Tensor, mask: Tensor) -> Tensor:
        """Map v [B, R, D] with adjacency [K, B, R, R] and mask [B, R] to H [B, R, D]."""
        adjacency = adjacency * (mask[:, :, None] & mask[:, None])
        diagonal = 0 if self.residual else torch.eye(v.shape[1], dtype=v.dtype, device=v.device)
        row_sums = (adjacency[0] + diagonal).sum(dim=-1, keepdim=True).clamp(min=1e-6)
        values = self.weight(v)
        message = ((adjacency[0] + diagonal) / row_sums) @ values
        if self.basis is not None:
            for gate, basis in zip(adjacency[1:], self.basis, strict=True):
                message = message + ((gate / row_sums) @ values) * basis
        if self.norm is None:
            return self.dropout(message)
        return self.norm(v + self.dropout(torch.relu(message)))


class ExplicitRelations(nn.Module):
    """Stage 4: V2 = LN(V1 + Linear([H_s; H_m])), with the Linear initialised to zero.

    model.graphs selects one graph, both, or their union. With model.residual there is no LN, and the Linear is
    initialised to add `INITIAL_SHARE` of each message.
    """

    def __init__(self, settings: ModelSettings, predicates: int) -> None:
        super().__init__()
        self.union = settings.graphs == "union"
        self.spatial = SpatialGraph(settings) if settings.graphs != "semantic" else None
        self.semantic = SemanticGraph(settings, predicates) if settings.graphs != "spatial" else None
        graphs = [graph for graph in (self.spatial, self.semantic) if graph is not None]
        maps = [max(graph.maps for graph in graphs)] if self.union else [graph.maps for graph in graphs]
        self.steps = nn.ModuleList(GraphStep(settings, count) for count in maps)
        self.fuse = make_linear(len(self.steps) * settings.dim, settings.dim, gain=0)
        if settings.residual:
            for part in self.fuse.weight.data.chunk(len(self.steps), dim=1):
                part.fill_diagonal_(INITIAL_SHARE)
        self.norm = None if settings.residual else nn.LayerNorm(settings.dim)
        self.kinds = max(graph.maps for graph in graphs)
        self.predicates = None
        if settings.predicate_vectors and self.semantic is not None and predicates:
            self.predicates = PredicateVectors(predicates, settings.dim)

    def build_graphs(self, regions: Regions, predicted: PredictedEdges | None = None) -> list[Tensor]:
        """Return the adjacencies A [K, B, R, R], one per step."""
        graphs = [graph(regions, predicted) for graph in (self.spatial, self.semantic) if graph is not None]
        return [_add_graphs(graphs)] if self.union else graphs

    def forward(self, v: Tensor, regions: Regions, predicted: PredictedEdges | None = None) -> tuple[Tensor, Tensor]:
        """Map v [B, R, D] to V2 [B, R, D] and the summed edges of all graphs [B, K, R, R], K = `kinds`.

        predicted: relations that complete and correct the explicit ones.
        """
        graphs = self.build_graphs(regions, predicted)
        steps = [step(v, graph, regions.mask) for step, graph in zip(self.steps, graphs, strict=True)]
        fused = v + self.fuse(torch.cat(steps, dim=-1))
        if self.predicates is not None and self.semantic is not None:
            fused = fused + self.predicates(regions, self.semantic.select_relations(regions))
        return (fused if self.norm is None else self.norm(fused)), _add_graphs(graphs).transpose(0, 1)


def _add_graphs(graphs: Sequence[Tensor]) -> Tensor:
    """Add graphs [K, B, R, R]; those with fewer maps are padded with zeros."""
    most = max(len(graph) for graph in graphs)
    padded = [torch.cat([g, g.new_zeros(most - len(g), *g.shape[1:])]) for g in graphs]
    return sum(padded[1:], padded[0])
