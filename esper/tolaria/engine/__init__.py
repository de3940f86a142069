"""Host training engines."""
