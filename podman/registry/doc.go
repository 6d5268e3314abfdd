// Package registry is the embedded OCI registry that carries images to the
// nodes: the CNCF Distribution registry as a library, with our access control
// before it, referrers beside it (OCI distribution-spec v1.1, "Listing
// Referrers"), and a garbage collection that may run while images are pushed.
// It opens no listener and calls nobody.
package registry
