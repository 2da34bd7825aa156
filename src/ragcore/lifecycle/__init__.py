"""Starting and closing: parts, the tasks that own background work, clean-ups that end, and the point in time by which all of it does."""
