"""Work on a graph layer by layer: run it in pieces, see a layer as a matrix product, fit it by least squares."""
