package podman

import "context"

// prompt makes a call by the bindings and ends with ctx. They take every error
// for a hiccup of the connection, and sleep for 0.6 s in all before they say it:
// also when the call was given up because its machine is lost. Whoever waits for
// the call does not wait for that.
func prompt[T any](ctx context.Context, call func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	got := make(chan answer, 1)
	go func() { // asks nothing more once ctx has ended, and ends itself soon after
		value, err := call()
		got <- answer{value, err}
	}()
	select {
	case a := <-got:
		return a.value, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-got: // at the same moment
		return a.value, a.err
	default:
		var none T
		return none, ctx.Err()
	}
}

// promptly is prompt of a call that has no result.
func promptly(ctx context.Context, call func() error) error {
	_, err := prompt(ctx, func() (struct{}, error) { return struct{}{}, call() })
	return err
}
