"""Pages about the installation itself: servers, settings, the audit trail, operations."""
