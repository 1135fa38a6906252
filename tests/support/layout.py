"""How the browser lays a workflow's file out: what it shows, and what its wires run behind."""

from __future__ import annotations

import math
from collections.abc import Iterator

Box = tuple[float, float, float, float]  # left, top, right, bottom
Point = tuple[float, float]
TITLE, SLOT = 30, 20  # a title's height, above a node's position; the distance of its sockets
LETTER = 7.2  # of a title, about
SMALL_WINDOW = {"width": 1366, "height": 768}
LEGIBLE = 8 / 14  # both frontends draw text from this scale on
CORNER = 16  # how far a wire may cut a node's edge
ROOM = 250  # what a preview takes below its node


def nodes(workflow: dict) -> dict[int, dict]:
    return {node["id"]: node for node in workflow["nodes"]}


def is_collapsed(node: dict) -> bool:
    return node["flags"].get("collapsed", False)


def box(node: dict) -> Box:
    """With its title, which is all that a collapsed node has."""
    (x, y), (width, height) = node["pos"], node["size"]
    if is_collapsed(node):
        width = min(width, 2 * TITLE + LETTER * len(node.get("title", node["type"])))
        height = 0
    return x, y - TITLE, x + width, y + height


def overlaps(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def scale(workflow: dict, width: float, height: float) -> float:
    """At which a template opens on a canvas: its nodes, and 10 around them, on three quarters."""
    lefts, tops, rights, bottoms = zip(*map(box, workflow["nodes"]))
    sides = max(rights) - min(lefts) + 20, max(bottoms) - min(tops) + 20
    return min(0.75 * width / sides[0], 0.75 * height / sides[1])


def wires(workflow: dict) -> Iterator[tuple[list, list[Point]]]:
    """Each link with points along it, by its reroutes."""
    found = nodes(workflow)
    reroutes = {r["id"]: r for r in workflow["extra"].get("reroutes", [])}
    last = {e["id"]: e["parentId"] for e in workflow["extra"].get("linkExtensions", [])}
    for link in workflow["links"]:
        id_, origin, output, target, socket, _ = link
        stops, reroute = [], reroutes.get(last.get(id_))
        while reroute:
            stops.insert(0, tuple(reroute["pos"]))
            reroute = reroutes.get(reroute.get("parentId"))
        ends = [plug(found[origin], output, 2), *stops, plug(found[target], socket, 0)]
        parts = zip(ends, ends[1:])
        yield link, [point for i, (a, b) in enumerate(parts)
                     for point in curve(a, b, i == 0, i == len(stops))]


def plug(node: dict, socket: int, side: int) -> Point:
    """Where a wire leaves a node on its right side, 2, or reaches it on its left, 0."""
    if is_collapsed(node):
        return box(node)[side], node["pos"][1] - TITLE / 2
    return box(node)[side], node["pos"][1] + (socket + 0.7) * SLOT


def curve(a: Point, b: Point, leaves: bool, arrives: bool) -> list[Point]:
    """The spline that is drawn; at a node it is level."""
    reach = math.dist(a, b) / 4
    c, d = (a[0] + reach * leaves, a[1]), (b[0] - reach * arrives, b[1])
    weights = [((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
               for t in (i / 40 for i in range(41))]
    return [tuple(sum(w * p[axis] for w, p in zip(weight, (a, c, d, b))) for axis in (0, 1))
            for weight in weights]


def behind(workflow: dict) -> list[str]:
    """Every wire that runs behind a node."""
    boxes = {id_: box(node) for id_, node in nodes(workflow).items()}
    return [
        f"{link[5]} from node {link[1]} to {link[3]} runs behind {id_}"
        for link, points in wires(workflow)
        for id_, (left, top, right, bottom) in boxes.items()
        if any(left + CORNER < x < right - CORNER and top + 6 < y < bottom - 6 for x, y in points)
    ]
