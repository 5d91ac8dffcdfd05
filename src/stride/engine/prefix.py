"""The prefix cache: pages of earlier prompts and answers, shared by reference with requests that begin alike.

A tree of pages for each scope: a node is the tokens of one page behind those of its ancestors, and holds the page of
each cache group. The tree is one more holder of each page; a page that nobody else holds is given back when its group
has none free, the longest unused first. Nodes of whole pages are never written again, so any number of sequences may
hold them.

A sequence can be resumed at a position whose whole past a full-attention group has, and whose last ``window`` positions
every sliding-window group has. Window pages are therefore kept where resuming is likely (``_likely_ends``) and given
back apart from their node's other pages; from between two such places, computing starts at the first of them.
A position inside a page is resumed on a copy of the page: what follows its first tokens is overwritten or never seen.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from stride.engine.kv import PagedCache, first_page, pages_for
from stride.ops.api import PAGE_TOKENS, IntArray

SNAPSHOT_WINDOWS = 8
"""Windows between the snapshots of a long prompt: they cost at most an eighth of keeping all window pages."""
MARGIN = PAGE_TOKENS
"""Tokens around a likely end at which resuming works too: a template's words between two messages are fewer."""
LAST_MESSAGES = 4
"""Ends of messages, from a prompt's last one back, at which window pages are kept."""
_NEIGHBOURS = 8
_TOKEN_BYTES = 4


class Node:
    """The tokens (int32 bytes) of one page behind its ancestors', and its page of each group, or -1.

    A node of less than a whole page has no children. ``users`` counts the sequences that have come just as far as here.
    ``digest`` names the tokens from the beginning, and the scope.
    """

    __slots__ = ("children", "digest", "keys", "pages", "parent", "tokens", "users")

    def __init__(self, parent: Node | None, tokens: bytes, n_groups: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.pages = [-1] * n_groups
        self.children: dict[bytes, Node] = {}
        self.keys: list[bytes] = []  # of the children, sorted
        self.users = 0
        before = b"" if parent is None else parent.digest
        self.digest: bytes = hashlib.blake2b(before + tokens, digest_size=32).digest()

    def child(self, tokens: bytes) -> Node:
        """The child of these tokens, made if there is none."""
        node = self.children.get(tokens)
        if node is None:
            node = self.children[tokens] = Node(self, tokens, len(self.pages))
            insort(self.keys, tokens)
        return node

    def unlink(self) -> None:
        """Leave the parent."""
        if self.parent is not None:
            del self.parent.children[self.tokens]
            del self.parent.keys[bisect_right(self.parent.keys, self.tokens) - 1]

    def most_alike(self, tokens: bytes) -> list[tuple[int, Node]]:
        """Children that begin with some of the given tokens: (how many, child), most first."""
        at = bisect_right(self.keys, tokens)  # those that begin alike stand together
        near = self.keys[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]
        alike = [(n, self.children[key]) for key in near if (n := _common_tokens(key, tokens))]
        return sorted(alike, key=lambda one: -one[0])


def _name(scope: str) -> bytes:
    return hashlib.blake2b(scope.encode(), digest_size=32).digest()


def _common_tokens(a: bytes, b: bytes) -> int:
    n = min(len(a), len(b)) // _TOKEN_BYTES
    differ = np.flatnonzero(np.frombuffer(a, np.int32, n) != np.frombuffer(b, np.int32, n))
    return int(differ[0]) if len(differ) else n


@dataclass(slots=True)
class Path:
    """Where a running sequence is in the tree: the node of its last whole page that is in there.

    ``ends``: positions, sorted, near which resuming is likely. ``n_cached``: tokens that need not be computed.
    ``n_offered``: tokens behind which others can resume, in a page that is not whole yet too.
    """

    node: Node
    ends: list[int]
    n_pages: int = 0
    n_cached: int = 0
    n_offered: int = 0

    def wants(self, entry: int, window: int) -> bool:
        """Whether a window's page is needed to resume near a likely end."""
        i = bisect_right(self.ends, entry * PAGE_TOKENS - MARGIN)
        return i < len(self.ends) and self.ends[i] < (entry + 1) * PAGE_TOKENS + window - 1 + MARGIN


class Watcher(Protocol):
    """Is told what happens to nodes (`stride.engine.prefix_store`)."""

    def added(self, node: Node) -> None:
        """A node has come to hold one page more."""

    def removed(self, node: Node) -> None:
        """A node is no longer in its tree: what it held is of no more use."""

    def evicted(self, node: Node) -> None:
        """A node is no longer in its tree, for want of room."""


class PrefixCache:
    """The trees of all scopes over one `PagedCache`. Used by one thread at a time."""

    def __init__(self, cache: PagedCache) -> None:
        self._cache = cache
        self._roots: dict[bytes, Node] = {}
        self._distance = SNAPSHOT_WINDOWS * max((g.window or 0 for g in cache.groups), default=0)
        # Of each group, the nodes that have a page of it, the longest unused first.
        self._used: tuple[OrderedDict[Node, None], ...] = tuple(OrderedDict() for _ in cache.groups)
        self.watcher: Watcher | None = None
        for index, group in enumerate(cache.groups):
            group.allocator.reclaim = partial(self.reclaim, index)

    @property
    def n_pages(self) -> tuple[int, ...]:
        """Pages of each group in the trees, those that running sequences share included."""
        return tuple(map(len, self._used))

    def root(self, scope: bytes) -> Node:
        """The root of a scope's tree, made if there is none."""
        if scope not in self._roots:
            self._roots[scope] = Node(None, scope, len(self._cache.groups))
        return self._roots[scope]

    # --- a sequence's life ---

    def open(self, slot: int, scope: str, prompt: IntArray, end_ids: Collection[int], n_tokens: int) -> Path:
        """Begin an empty slot with as much of a prompt as is there, but for its last token.

        Args:
            slot: the sequence's place in the cache.
            scope: sequences of different scopes share nothing.
            prompt: int32 [n], its tokens.
            end_ids: tokens that end a message.
            n_tokens: tokens that the sequence may come to have.
        """
        root = self.root(_name(scope))
        nodes, n_alike, n_cached = self._find(root, prompt[:-1])
        n_whole, n_pages = n_cached // PAGE_TOKENS, pages_for(n_cached)
        ends = self._likely_ends(prompt, end_ids, n_tokens)
        if n_alike > n_cached:  # others have come this far and gone another way: so may the next
            insort(ends, n_alike)
        path = Path(nodes[n_whole - 1] if n_whole else root, ends, n_whole, n_cached, n_cached)
        path.node.users += 1
        sources = list(nodes[n_whole].pages) if n_pages > n_whole else []
        self._touch(nodes[:n_pages], n_cached)
        for index, group in enumerate(self._cache.groups):
            first = first_page(n_cached, group.window)
            group.adopt(slot, first, [node.pages[index] for node in nodes[first:n_whole]])
        for index, source in enumerate(sources):  # should it be taken back now, its content stays until it is copied
            group = self._cache.groups[index]
            group.extend(slot, n_cached, n_cached)
            self._cache.copies.append((index, source, int(group.table[slot, n_whole])))
        return path

    def expect(self, path: Path, position: int, *, is_offered: bool) -> bool:
        """Note that another sequence is to be resumed at a position that a sequence has yet to come to. False if it has
        come there, or too close to still keep all that takes.

        ``is_offered``: it will offer the place, even if that is inside a page.
        """
        has_come = position <= path.n_offered if is_offered else position // PAGE_TOKENS <= path.n_pages
        if has_come:
            return False
        i = bisect_left(path.ends, position - MARGIN)
        if self._distance and not (i < len(path.ends) and path.ends[i] <= position + MARGIN):
            windows = [group.window for group in self._cache.groups if group.window is not None]
            if first_page(max(0, position - MARGIN), max(windows)) < path.n_pages:
                return False
            insort(path.ends, position)
        return True

    def keep(self, path: Path, slot: int, token_ids: IntArray, n_computed: int) -> None:
        """Hold the pages that are whole by now; where the tree has the same already, the sequence shares those."""
        while path.n_pages < n_computed // PAGE_TOKENS:
            start = path.n_pages * PAGE_TOKENS
            tokens = token_ids[start : start + PAGE_TOKENS].tobytes()
            node = self._grow(path.node, tokens)
            self._share(path, node, slot, path.n_pages)
            path.node.users -= 1
            node.users += 1
            path.node, path.n_pages = node, path.n_pages + 1

    def offer(self, path: Path, slot: int, token_ids: IntArray, n_computed: int) -> None:
        """After `keep`: hold the page, too, that a sequence is about to go on in, so that others can resume there."""
        path.n_offered = n_computed
        if tokens := token_ids[path.n_pages * PAGE_TOKENS : n_computed].tobytes():
            node = self._grow(path.node, tokens)
            if max(node.pages) < 0:  # else somebody's is there, which is not to be written
                self._share(path, node, slot, path.n_pages)
            self._prune(node)

    def forget(self, scope: str) -> None:
        """Let go of all that a scope has. No sequence may be using it."""
        root = self._roots.get(_name(scope))
        nodes = [] if root is None else list(root.children.values())
        for node in nodes:  # which grow meanwhile
            nodes += node.children.values()
        for node in reversed(nodes):
            if node.parent is not None and node.parent.children.get(node.tokens) is node:
                self.remove(node)

    def close(self, path: Path, slot: int, token_ids: IntArray, n_computed: int) -> None:
        """Hold what a sequence leaves behind, whose slot is about to be closed; its end is a likely one."""
        self.keep(path, slot, token_ids, n_computed)
        path.ends = [n_computed]
        nodes = _ancestry(path.node)
        if n_computed % PAGE_TOKENS:
            nodes.append(self._grow(path.node, token_ids[path.n_pages * PAGE_TOKENS : n_computed].tobytes()))
        for entry, node in enumerate(nodes):
            self._share(path, node, slot, entry)
        self._touch(nodes, n_computed)
        path.node.users -= 1
        self._prune(path.node)

    # --- finding ---

    def _find(self, root: Node, tokens: IntArray) -> tuple[list[Node], int, int]:
        """The nodes of the longest common beginning, its length, and the last position there that can be resumed."""
        data, page_bytes = tokens.tobytes(), PAGE_TOKENS * _TOKEN_BYTES
        nodes: list[Node] = []
        node = root
        for start in range(0, len(data) - page_bytes + 1, page_bytes):
            if (child := node.children.get(data[start : start + page_bytes])) is None:
                break
            nodes.append(child)
            node = child
        n_whole = len(nodes) * PAGE_TOKENS
        rest = data[len(nodes) * page_bytes :][:page_bytes]
        alike = node.most_alike(rest)
        n_alike = n_whole + (alike[0][0] if alike else 0)
        for n, child in alike:
            if self._is_complete([*nodes, child], n_whole + n):
                return [*nodes, child], n_alike, n_whole + n
        while n_whole and not self._is_complete(nodes, n_whole):
            n_whole -= PAGE_TOKENS
        return nodes, n_alike, n_whole

    def _is_complete(self, nodes: Sequence[Node], position: int) -> bool:
        """Whether all pages are there that a token at a position looks at."""
        return all(
            nodes[entry].pages[index] >= 0
            for index, group in enumerate(self._cache.groups)
            if group.window is not None  # nodes have the others
            for entry in range(pages_for(position) - 1, first_page(position, group.window) - 1, -1)
        )

    def _likely_ends(self, prompt: IntArray, end_ids: Collection[int], n_tokens: int) -> list[int]:
        """Positions near which sequences are likely to be resumed, sorted.

        A follow-up turn begins like its conversation up to the last prompt's end (what was generated may come back
        without its reasoning) or up to the answer's end; an older turn's end is where a message ended; other
        conversations share the first message. What goes on from elsewhere has the regular places.
        """
        if not self._distance:
            return []
        after = (np.flatnonzero(np.isin(prompt, list(end_ids))) + 1).tolist()
        regular = range(self._distance, n_tokens, self._distance)
        return sorted({*after[:1], *after[-LAST_MESSAGES:], len(prompt), *regular})

    # --- holding ---

    def _grow(self, node: Node, tokens: bytes) -> Node:
        """The child of some tokens, in place of those that are their beginning."""
        for end in range(_TOKEN_BYTES, len(tokens), _TOKEN_BYTES):
            if (beginning := node.children.get(tokens[:end])) is not None:
                self.remove(beginning)
        return node.child(tokens)

    def _share(self, path: Path, node: Node, slot: int, entry: int) -> None:
        """Let a node hold a sequence's pages that it lacks and that are wanted, and the sequence those that it has."""
        for index, group in enumerate(self._cache.groups):
            own, kept = int(group.table[slot, entry]), node.pages[index]
            if own < 0 or own == kept:
                continue
            if kept >= 0:
                group.replace(slot, entry, kept)
            elif group.window is None or path.wants(entry, group.window):
                group.allocator.retain(own)
                self._hold(node, index, own)

    def _hold(self, node: Node, index: int, page: int) -> None:
        node.pages[index] = page
        self._used[index][node] = None
        if self.watcher is not None:
            self.watcher.added(node)

    def _touch(self, nodes: Sequence[Node], position: int) -> None:
        """Note that a sequence, whose nodes these are, was resumed at a position or came there."""
        for used, group in zip(self._used, self._cache.groups, strict=True):
            # Of full attention, an inner node goes after those behind it, so that the longest unused one is a leaf.
            looked_at = nodes[first_page(position, group.window) :]
            for node in reversed(nodes) if group.window is None else looked_at:
                if node in used:
                    used.move_to_end(node)

    def insert(self, parent: Node, tokens: bytes, has_page: Sequence[bool]) -> Node | None:
        """Add a node that is not there, with a free page of each group that it is to have one of; their content is the
        caller's to write. None where no page is free for full attention, or the tree cannot take it: a node of less
        than a page has no children.
        """
        groups = self._cache.groups
        free = [has and g.allocator.n_busy < g.allocator.n_pages for g, has in zip(groups, has_page, strict=True)]
        full = [has for g, has in zip(groups, free, strict=True) if g.window is None]
        is_partial = parent.parent is not None and len(parent.tokens) < PAGE_TOKENS * _TOKEN_BYTES
        if not all(full) or not any(free) or is_partial or tokens in parent.children:
            return None
        node = parent.child(tokens)
        for index in np.flatnonzero(free).tolist():
            self._hold(node, index, groups[index].allocator.allocate())
        return node

    def reverse(self) -> None:
        """Take the nodes inserted first for those used last."""
        self._used = tuple(OrderedDict.fromkeys(reversed(used)) for used in self._used)

    # --- letting go ---

    def reclaim(self, index: int) -> bool:
        """Give back one page of a group that nobody else holds: the longest unused one that nothing depends on."""
        used, group = self._used[index], self._cache.groups[index]
        for _ in range(len(used)):
            node = next(iter(used))
            if group.allocator.n_holders(node.pages[index]) == 1:
                if group.window is not None:
                    self._drop(node, index)
                    self._prune(node, evicts=True)
                    return True
                if not node.children:
                    self.remove(node, evicts=True)
                    return True
            used.move_to_end(node)  # a sequence, or a longer prompt, is using it
        return False

    def remove(self, node: Node, *, evicts: bool = False) -> None:
        """Take out a node without children that nobody is using; ``evicts``: for want of room alone."""
        for index, page in enumerate(node.pages):
            if page >= 0:
                self._drop(node, index)
        self._prune(node, evicts=evicts)

    def _drop(self, node: Node, index: int) -> None:
        self._cache.groups[index].allocator.release(node.pages[index])
        node.pages[index] = -1
        del self._used[index][node]

    def _prune(self, node: Node, *, evicts: bool = False) -> None:
        """Take out a node that holds nothing and is not in use, and its ancestors like it."""
        while not (node.users or node.children or max(node.pages) >= 0):
            if node.parent is None:
                del self._roots[node.tokens]
                return
            node.unlink()
            if self.watcher is not None:
                (self.watcher.evicted if evicts else self.watcher.removed)(node)
            node = node.parent


def _ancestry(node: Node) -> list[Node]:
    """The nodes from below the root down to this one."""
    nodes: list[Node] = []
    while node.parent is not None:
        nodes.append(node)
        node = node.parent
    return nodes[::-1]
