"""Which worker was sent which prompt: one radix tree over prompt bytes, shared by all workers. Pure."""

########################################################################
# The rules of this file
########################################################################
#
# Rule 1: this file knows bytes and holders, nothing else. A holder is a worker's id, a key is a prompt as bytes; no
# requests, no loads, no choice. match() never changes anything, insert() never chooses.
#
# Rule 2: no Python loop over bytes. An edge is a `bytes`, compared by one memcmp; a node's children are found by their
# edge's first byte. Where two keys part is found by a few slice compares and one XOR (see _common).
#
# Rule 3: everything has a bound. Bytes (edge length x holders) by `max_size`; objects by `max_entries`, for an entry
# costs some 400 bytes of memory however short its edge is; a key by `max_key`, so that one prompt cannot turn out
# everything else; a walk by MAX_DEPTH; the dropping done in one call by SLICE.
#
#
# Theory of operation
# ===================
#
# The tree is shared, the tenants are not: that a tenant holds a node is an *entry*, node.holders[tenant], whose value
# is the stamp (a count of inserts) of the tenant's last key that passed there. What holds between two calls:
#
# a) A live tenant that holds a node holds all of the node's ancestors, and an ancestor's stamp is never smaller. So the
#    holders of the deepest node on a key's path are the holders of its longest match, and going up only adds holders.
#
# b) The order of eviction is by stamp, and within a stamp from the leaf up, so the oldest entry is always a leaf of its
#    tenant, and dropping it keeps (a). To find it without a search, each tenant keeps its `ends`: the nodes where its
#    keys ended, oldest first. The entries that still carry a key's stamp are a run upwards from that key's end, because
#    a later key can only have passed through the upper part of the path. So when an end goes, its parent is the next if
#    it has the same stamp. A split gives the upper node the lower one's stamps, which keeps the run whole. An end whose
#    node carries a later stamp has been passed by a longer key since; it is skipped.
#
# c) A node without holders and without children does not exist.
#
# d) Each live tenant that holds something has one record in the heap, with a stamp not larger than its oldest end's.
#
# A worker whose cache is gone gets a new tenant under the old name. The dead tenant's entries are seen by nobody, do
# not count in `size`, go before any live entry when room is needed, and are purged a few per insert() and a slice per
# upkeep(): forgetting a worker costs the same whether it held nothing or everything.
#
# A request asks what is held of its prompt, then notes who got it. The way down is walked once, for the place to which
# it led is kept until the tree changes: it is half of what the index costs.
#
# A key can stay: between enter() and leave() nothing on its path is dropped, and leave() makes it the newest. So a
# tenant with a `limit` is an engine's KV cache in miniature: what requests in flight refer to stays, the rest goes in
# the order in which requests were done. Each tenant counts the keys that stay by node, `stays`. An end that would be
# dropped and stays is forgotten as an end: leave() makes the path's end one again.
#
# A leaf held by one tenant alone grows in place when that tenant's next key goes on where the leaf ends, so that a
# conversation of 100 turns is one node, not a chain of 100. Nodes are never merged back: after 100,000 inserts of
# branching conversations into a full tree a fifth of the nodes could have been, and no path was deeper than 12.

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Final

ENTRY_BYTES: Final = 256  # max_entries = max_size / this: 65,536 by default, 26 MB of objects
MIN_ENTRIES: Final = 1024
MAX_KEY: Final = 1 << 20  # bytes; some 260,000 tokens are enough to tell prompts apart
MAX_DEPTH: Final = 256  # nodes on one path; real prompts branch fewer than 20 times
SLICE: Final = 1000  # entries dropped by one call at most: 1.5 ms, 3 ms when memory is cold
PURGE_PER_INSERT: Final = 4  # more than an insert adds, but for a split of a node with many holders


class _Tenant:
    """One life of one worker's cache."""

    __slots__ = ("alive", "ends", "holder", "queued", "size", "stays")

    def __init__(self, holder: str):
        self.holder = holder
        self.alive = True
        self.queued = False  # whether it has a record in the heap
        self.size = 0  # bytes
        self.ends: OrderedDict[_Node, int] = OrderedDict()  # where a key ended: its stamp, oldest first
        self.stays: dict[_Node, int] = {}  # nodes that may not go, by how many keys


class _Node:
    __slots__ = ("children", "edge", "holders", "parent")

    def __init__(self, parent: _Node | None, edge: bytes, holders: dict[_Tenant, int]):
        self.parent = parent  # None: the root, whose edge is empty and which nobody holds
        self.edge = edge
        self.holders = holders
        self.children: dict[int, _Node] = {}


class Stay:
    """A key that a holder is not to lose for the time being. For PrefixIndex.leave()."""

    __slots__ = ("end", "held", "tenant")

    def __init__(self, held: int, end: _Node, tenant: _Tenant):
        self.held = held  # bytes of the key that were held before
        self.end = end
        self.tenant = tenant


class PrefixIndex:
    """Prefixes by holder, bounded to `max_size` bytes of edges times holders, dropped least recently used first.

    Match and insert together, four holders, one core of an EPYC, CPython 3.11: 3 us for an 80-byte prompt seen before,
    7 us for a new one in a full tree, 8 us for 16 KB of which 8 KB are shared.
    """

    def __init__(self, max_size: int):
        self.max_size = self.max_key = self.max_entries = 0
        self.grow(max_size)
        self.evictions = 0  # live entries dropped for want of room, ever
        self._root = _Node(None, b"", {})
        self._tenants: dict[str, _Tenant] = {}
        self._heap: list[tuple[int, _Tenant]] = []
        self._dead: list[_Tenant] = []
        self._stamp = 0  # of the last insert
        self._bytes = 0  # dead ones included
        self._dead_bytes = 0
        self._entries = 0  # dead ones included
        self._asked: bytes | None = None  # the last key that was looked up, if nothing has changed since
        self._nowhere = (self._root, 0, 0, 0)
        self._place = self._nowhere  # what _descend said of it

    def grow(self, max_size: int) -> None:
        """Take so many bytes, if that is more than before."""
        self.max_size = max(self.max_size, max_size)
        self.max_key = min(self.max_size, MAX_KEY)
        self.max_entries = max(MIN_ENTRIES, self.max_size // ENTRY_BYTES)

    @property
    def size(self) -> int:
        """Bytes held by all holders together."""
        return self._bytes - self._dead_bytes

    def share(self, holder: str) -> int:
        """Bytes held by one holder."""
        tenant = self._tenants.get(holder)
        return tenant.size if tenant is not None else 0

    # -- reading

    def match(self, key: bytes) -> tuple[int, set[str]]:
        """The length of the longest prefix of `key` that anyone holds, and all who hold it; (0, empty) for none."""
        node, start, end, _ = self._descend(key)
        while node.parent is not None:
            live = {tenant.holder for tenant in node.holders if tenant.alive}
            if live:
                return end, live
            node, end = node.parent, start
            start -= len(node.edge)
        return 0, set()

    def matches(self, key: bytes) -> dict[str, int]:
        """The length of the longest prefix of `key` for each holder that has some of it."""
        found: dict[str, int] = {}
        node, start, end, _ = self._descend(key)
        while node.parent is not None:
            if len(node.holders) > len(found):  # going up only adds holders: else there is nobody new
                for tenant in node.holders:
                    if tenant.alive and tenant.holder not in found:
                        found[tenant.holder] = end
            node, end = node.parent, start
            start -= len(node.edge)
        return found

    def matches_of(self, ids: set[str], key: bytes, others: int) -> dict[str, int]:
        """The same of `ids`, and of at most `others` more, those that have the most of it: its time does not grow with
        their number.
        """
        found: dict[str, int] = {}
        tenants = [self._tenants[id] for id in ids if id in self._tenants]
        node, start, end, _ = self._descend(key)
        while node.parent is not None:
            for tenant in tenants:
                if tenant in node.holders and tenant.holder not in found:
                    found[tenant.holder] = end
            if others:
                for tenant in node.holders:
                    if tenant.alive and tenant.holder not in found:
                        found[tenant.holder] = end
                        others -= 1
                        if not others:
                            break
            node, end = node.parent, start
            start -= len(node.edge)
        return found

    def _descend(self, key: bytes) -> tuple[_Node, int, int, int]:
        """The deepest node whose edge shares a byte with `key`, where it starts in the key, where the match ends, and
        how deep it is; no deeper than MAX_DEPTH.
        """
        if key is self._asked:
            return self._place
        node, start, end, depth, length = self._root, 0, 0, 0, len(key)
        while end < length and depth < MAX_DEPTH:
            child = node.children.get(key[end])
            if child is None:
                break
            node, start, edge = child, end, child.edge
            depth += 1
            if not key.startswith(edge, end):
                end += _common(key, end, edge)
                break
            end += len(edge)
        self._asked, self._place = key, (node, start, end, depth)
        return self._place

    # -- writing

    def insert(self, key: bytes, holder: str) -> int:
        """Note that `holder` now holds `key`; returns how many bytes of it it held before.

        A key longer than `max_key` is cut. Older entries make room: the bounds hold when this returns. Where SLICE of
        them are not enough, the end of the key is left out instead, and finds more room when it is sent again.
        """
        if not key or not self.max_key:
            return 0
        tenant, _, held = self._insert(key, holder)
        if self._is_over():
            self._fit(tenant)
        return held

    def enter(self, key: bytes, holder: str, limit: int) -> Stay:
        """As insert(), for a key that stays until leave(); `holder` itself has room for `limit` bytes.

        Where all room is taken by keys that stay, the end of this one is left out and does not.
        """
        if not key or not self.max_key:
            return Stay(0, self._root, _Tenant(holder))
        tenant, end, held = self._insert(key, holder)
        if self._is_over():
            self._fit(tenant)
        stay = Stay(held, end, tenant)
        while tenant not in stay.end.holders and stay.end.parent is not None:
            stay.end = stay.end.parent
        self._count(stay, 1)
        self._trim(tenant, limit)
        return stay

    def leave(self, stay: Stay) -> None:
        """The key may go from now on, after all others of its holder. To be called once."""
        tenant, end = stay.tenant, stay.end
        self._count(stay, -1)
        if end.parent is None:
            return
        self._stamp += 1
        node = end
        while node.parent is not None:
            node.holders[tenant] = self._stamp
            node = node.parent
        self._end_at(end, tenant)
        if not tenant.alive and tenant not in self._dead:
            self._dead.append(tenant)

    def _count(self, stay: Stay, more: int) -> None:
        """So many more keys stay where this one does."""
        stays, node = stay.tenant.stays, stay.end
        while node.parent is not None:
            count = stays.get(node, 0) + more
            if count:
                stays[node] = count
            else:
                del stays[node]
            node = node.parent

    def _trim(self, tenant: _Tenant, limit: int) -> None:
        """Drop a tenant's oldest entries until it is within its limit, or all that is left stays."""
        for _ in range(SLICE):
            if tenant.size <= limit or not _oldest(tenant):
                return
            self._drop(tenant)
            self.evictions += 1

    def _insert(self, key: bytes, holder: str) -> tuple[_Tenant, _Node, int]:
        """Where the key, which is not empty, ends now, and how much of it was held before."""
        tenant = self._tenants.get(holder)
        if tenant is None:
            tenant = self._tenants[holder] = _Tenant(holder)
        self._stamp += 1
        node, held = self._hold(key, tenant, self._stamp)
        self._end_at(node, tenant)
        if self._dead:
            self._purge(PURGE_PER_INSERT)
        return tenant, node, held

    def _end_at(self, node: _Node, tenant: _Tenant) -> None:
        """A key of the tenant's ends there, the newest."""
        tenant.ends[node] = self._stamp
        tenant.ends.move_to_end(node)
        if tenant.alive and not tenant.queued:
            tenant.queued = True
            heapq.heappush(self._heap, (self._stamp, tenant))

    def _hold(self, key: bytes, tenant: _Tenant, stamp: int) -> tuple[_Node, int]:
        """Stamp every node on the key's path for `tenant`, and make what is missing; returns the end, and what it held.

        Nodes beyond MAX_DEPTH are left out, as if the key ended there.
        """
        last, start, end, depth = self._descend(key)
        self._asked, self._place = None, self._nowhere
        if end < start + len(last.edge):
            last = self._split(last, end - start)
        held, added, length = 0, 0, min(len(key), self.max_key)
        node, at = last, end
        while node.parent is not None:
            if tenant not in node.holders:
                added += len(node.edge)
                self._entries += 1
            elif not held:
                held = at
            node.holders[tenant] = stamp
            at -= len(node.edge)
            node = node.parent
        if end < length and depth < MAX_DEPTH:
            added += length - end
            last = self._append(last, key[end:length], tenant, stamp)
        tenant.size += added
        self._bytes += added
        return last, held

    def _append(self, node: _Node, rest: bytes, tenant: _Tenant, stamp: int) -> _Node:
        """Put the rest of a key under `node`, or into it where that makes no difference to anyone else.

        Not into one that stays: the rest may have to go before it.
        """
        if not node.children and len(node.holders) == 1 and tenant in node.holders and node not in tenant.stays:
            node.edge += rest
            return node
        leaf = node.children[rest[0]] = _Node(node, rest, {tenant: stamp})
        self._entries += 1
        return leaf

    def _split(self, node: _Node, at: int) -> _Node:
        """Cut the node's edge: a new node above it takes the first `at` bytes, with the same holders and stamps."""
        edge, parent = node.edge, node.parent
        assert parent is not None  # the root has no edge to cut
        upper = parent.children[edge[0]] = _Node(parent, edge[:at], node.holders.copy())
        upper.children[edge[at]] = node
        node.parent, node.edge = upper, edge[at:]
        self._entries += len(node.holders)
        for tenant in node.holders:
            if node in tenant.stays:
                tenant.stays[upper] = tenant.stays[node]
        return upper

    # -- dropping

    def forget(self, holder: str) -> None:
        """`holder` holds nothing any more. Takes the same time whatever it held."""
        tenant = self._tenants.pop(holder, None)
        if tenant is not None:
            tenant.alive = False
            self._dead.append(tenant)
            self._dead_bytes += tenant.size

    def clear(self) -> None:
        """Nobody holds anything any more."""
        for holder in tuple(self._tenants):
            self.forget(holder)

    def upkeep(self) -> None:
        """Purge a slice of what dead tenants left behind."""
        self._purge(SLICE)

    def _purge(self, limit: int) -> None:
        while self._dead:
            tenant = self._dead[-1]
            if not _oldest(tenant):
                self._dead.pop()
            elif limit:
                self._dead_bytes -= self._drop(tenant)
                limit -= 1
            else:
                return

    def _is_over(self) -> bool:
        return self._bytes > self.max_size or self._entries > self.max_entries

    def _fit(self, tenant: _Tenant) -> None:
        """Come back within the bounds after an insert for `tenant`."""
        for _ in range(SLICE):
            if not self._make_room():
                break
            if not self._is_over():
                return
        while self._is_over() and tenant.ends:  # what the insert added is what is too much, so it is all that goes
            self._drop(tenant, newest=True)

    def _make_room(self) -> bool:
        """Drop the oldest entry: a dead tenant's if there is one, else the oldest. False when all of them stay."""
        if self._dead:
            self._purge(1)
            return True
        tenant = self._stalest()
        if tenant is None:
            return False
        self._drop(tenant)
        self.evictions += 1
        return True

    def _stalest(self) -> _Tenant | None:
        """The tenant with the oldest end. Called when no dead one holds anything."""
        heap = self._heap
        while heap:
            stamp, tenant = heap[0]
            oldest = _oldest(tenant)
            if not oldest:
                heapq.heappop(heap)
                tenant.queued = False
            elif oldest > stamp:
                heapq.heapreplace(heap, (oldest, tenant))
            else:
                return tenant
        return None

    def _drop(self, tenant: _Tenant, newest: bool = False) -> int:
        """Take away the tenant's first end, its oldest entry (or its last, the newest); returns the bytes freed."""
        self._asked, self._place = None, self._nowhere
        node, stamp = tenant.ends.popitem(last=newest)
        del node.holders[tenant]
        freed = len(node.edge)
        tenant.size -= freed
        self._bytes -= freed
        self._entries -= 1
        parent = node.parent
        if parent is not None and parent.holders.get(tenant) == stamp and parent not in tenant.stays:
            tenant.ends[parent] = stamp
            tenant.ends.move_to_end(parent, last=newest)
        while not node.holders and not node.children and node.parent is not None:
            del node.parent.children[node.edge[0]]
            node = node.parent
        return freed


def _oldest(tenant: _Tenant) -> int:
    """The stamp of the tenant's oldest end, which is then its first; 0 if it holds nothing that may go."""
    ends = tenant.ends
    while ends:
        node, stamp = next(iter(ends.items()))
        if node.holders[tenant] == stamp and node not in tenant.stays:
            return stamp
        del ends[node]  # passed by a longer key since, or it stays
    return 0


def _common(key: bytes, at: int, edge: bytes) -> int:
    """How many bytes of `edge` stand in `key` from `at` on.

    Halving by memcmp down to 256 bytes, then the highest bit set in an XOR. At 8 KB, halving to the end takes twice and
    an XOR over everything six times as long.
    """
    low, high = 0, min(len(edge), len(key) - at)
    while high - low > 256:
        middle = (low + high) // 2
        if key.startswith(edge[low:middle], at + low):
            low = middle
        else:
            high = middle
    differ = int.from_bytes(key[at + low : at + high], "big") ^ int.from_bytes(edge[low:high], "big")
    return high - (differ.bit_length() + 7) // 8
