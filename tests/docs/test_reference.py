"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from django.conf import settings

from cloudops import env
from cloudops.core.reference import configuration
from cloudops.core.runtime import tunable_fields
from cloudops.hypervisors.vsphere.privileges import PRIVILEGES

ROOT = Path(settings.BASE_DIR)


def test_the_configuration_reference_is_what_the_code_reads() -> None:
    stored = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert stored == configuration(), "run `manage.py render_reference`"


def test_every_setting_has_help_with_its_meaning() -> None:
    assert [field.name for field in tunable_fields() if not field.help_text] == []


def test_no_name_is_both_in_the_environment_and_in_the_settings() -> None:
    names = {name.removeprefix("CLOUDOPS_").lower() for name in env.VARIABLES}
    assert names.isdisjoint({field.name for field in tunable_fields()})


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 150
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_no_document_links_to_a_file_that_is_not_there() -> None:
    missing = []
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", document.read_text(encoding="utf-8")):
            if not (document.parent / link).exists():
                missing.append(f"{document.name}: {link}")
    assert missing == []


def test_the_privileges_of_vsphere_are_those_that_are_checked() -> None:
    text = (ROOT / "docs" / "vsphere.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)`( \(required\))? \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    listed = [(name, bool(required), where, why) for name, required, where, why in rows]
    assert listed == [(one.id, one.required, str(one.where), one.why) for one in PRIVILEGES]
