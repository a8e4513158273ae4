"""From a reply to a figure: the choice in it, replies kept on disk, statistics."""
