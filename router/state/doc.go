// Package state is the one place that knows Redis (or Valkey): its keys, its
// scripts, the change stream, leases, rates and certificate storage. It also
// runs the private redis-server of a gateway that was given none.
//
// # How an app is stored
//
// One hash per app holds its whole aggregate, a [router.AppState]:
//
//	v        the version of the last write
//	w        the identities of the last few writes, so that a repeated one is known
//	app      the app itself
//	rel:N    each release
//	ins:ID   each instance
//
// All writes go through [Store.Update]: load, change purely, compare-and-set
// on the version by one script, which also claims hostnames, raises the global
// version and appends to the change stream. [Store.Watch] follows that stream.
//
// Every record carries a schema version; a record of a newer schema than
// [router.SchemaVersion] is refused rather than guessed at.
//
// # Errors
//
// Every call has a deadline: the context's, or callTimeout, whichever is
// sooner. Where Redis cannot be reached, does not answer in time or refuses to
// serve, the error is a [router.Error] of CodeUnavailable. A write that ends so
// may or may not have happened. No error holds a password.
package state
