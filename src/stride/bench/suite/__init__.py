"""The tool suite: fourteen kinds of conversations with tools, each from several seeds, played and graded."""
