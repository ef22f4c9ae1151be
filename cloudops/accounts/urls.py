"""Addresses of the account's, people's and projects' pages."""

from __future__ import annotations

from django.urls import path

from cloudops.accounts.views import account, projects, users

urlpatterns = [
    path("", account.home, name="home"),
    path("account/", account.account, name="account"),
    path("account/email/", account.email, name="account-email"),
    path("account/project/", account.choose_project, name="project-choose"),
    path("account/tokens/<uuid:token_id>/revoke/", account.revoke_token, name="token-revoke"),
    path("users/", users.users, name="users"),
    path("users/add/", users.add_user, name="user-add"),
    path("users/<int:user_id>/", users.user, name="user"),
    path("users/<int:user_id>/password/", users.set_password, name="user-password"),
    path("users/<int:user_id>/deactivate/", users.deactivate, name="user-deactivate"),
    path("users/<int:user_id>/reactivate/", users.reactivate, name="user-reactivate"),
    path("projects/", projects.projects, name="projects"),
    path("projects/add/", projects.add_project, name="project-add"),
    path("projects/<uuid:project_id>/", projects.project, name="project"),
    path("projects/<uuid:project_id>/change/", projects.change_project, name="project-change"),
    path("projects/<uuid:project_id>/delete/", projects.delete_project, name="project-delete"),
    path("projects/<uuid:project_id>/members/", projects.add_member, name="member-add"),
    path("projects/<uuid:project_id>/members/<int:membership_id>/", projects.change_member, name="member-change"),
    path(
        "projects/<uuid:project_id>/members/<int:membership_id>/remove/", projects.remove_member, name="member-remove"
    ),
]
