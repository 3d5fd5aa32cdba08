"""What recorded runs and models say: similarity, sensitivity, quality, replays."""
