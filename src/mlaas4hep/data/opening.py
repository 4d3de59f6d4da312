"""How one tree of one file is opened: from which addresses, with which friends, behind which function of the user.

Invariant: opened again, it gives the same columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mlaas4hep.data.friends import FriendSource
from mlaas4hep.data.hook import RecordHook
from mlaas4hep.data.hooked import HookedSource
from mlaas4hep.data.source import Source, list_trees, open_source


@dataclass(frozen=True)
class Opening:
    """Everything that opening a file takes.

    Parameters
    ----------
    path
        As it is named.
    tree
        None takes the only one.
    replicas
        Addresses to read it from, in the order in which they are asked; empty where that is ``path`` alone.
    friends
        Files whose trees stand beside it, entry by entry.
    hook
        The user's function that sees each event first.
    """

    path: str
    tree: str | None = None
    replicas: tuple[str, ...] = ()
    friends: tuple[str, ...] = ()
    hook: RecordHook | None = field(default=None, compare=False)

    def open(self) -> Source:
        """Open it.

        Raises
        ------
        DataError
            It cannot be opened, a friend cannot or has another number of entries, or the function fails.
        """
        source = open_source(self.path, self.tree, replicas=self.replicas)
        try:
            if self.friends:
                source = _with_friends(source, self.friends)
            return source if self.hook is None else HookedSource(source, self.hook)
        except BaseException:
            source.close()
            raise


def _with_friends(main: Source, paths: tuple[str, ...]) -> Source:
    friends: dict[str, Source] = {}
    try:
        for path in paths:
            names = [one.name for one in list_trees(path)]
            friend = open_source(path, main.tree if main.tree in names else None)
            name = friend.tree
            while name in friends:
                name += "_"
            friends[name] = friend
        return FriendSource(main, friends)
    except BaseException:
        for friend in friends.values():
            friend.close()
        raise
