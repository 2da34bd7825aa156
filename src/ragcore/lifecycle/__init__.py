"""Start and close of components: `Part`, tasks that own background work, bounded clean-ups, and the inherited deadline."""
