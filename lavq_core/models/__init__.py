"""Networks and the codebook: separator, codebook, class prior, editor, detector."""
