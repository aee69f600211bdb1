"""What a trained model has learnt: which fields count, which pairs of them, which values are alike, and the vectors."""
