"""The emotion model of music and images, and arithmetic on valence and arousal."""
