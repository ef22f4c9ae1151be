"""The project switcher: which of their projects a person looks at. A matter of display, never of rights."""

from __future__ import annotations

from functools import cached_property

from cloudops.accounts.models import Project, User


class Switcher:
    """What the frame offers to one person, and what "My" pages are narrowed to. Reads the database when first asked."""

    def __init__(self, user: User) -> None:
        self._user = user

    @cached_property
    def projects(self) -> list[Project]:
        """The projects to choose from, by name; none for people with fewer than two, who have nothing to choose."""
        found = list(self._user.projects.order_by("name"))
        return found if len(found) > 1 else []

    @cached_property
    def current(self) -> Project | None:
        """The chosen project; None for all of them. A choice ends with the membership, or when nothing else is left."""
        wanted = self._user.current_project_id
        if wanted is None:
            return None
        return next((project for project in self.projects if project.pk == wanted), None)
