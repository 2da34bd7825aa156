"""The start and the close of components: `Part`, tasks that own background work, clean-ups with a time limit, and the inherited deadline."""
