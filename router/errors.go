package router

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code says what kind of failure an [Error] is. Each protocol maps codes to
// its own statuses in one place.
type Code string

// The codes.
const (
	CodeInvalid      Code = "invalid"      // the caller's input is wrong; see Violations
	CodeNotFound     Code = "not_found"    // the thing named does not exist
	CodeConflict     Code = "conflict"     // somebody else holds or changed it
	CodeUnauthorized Code = "unauthorized" // no valid token
	CodeUnavailable  Code = "unavailable"  // cannot be done now; RetryAfter says when to ask again
	CodeExhausted    Code = "exhausted"    // a limit (capacity, queue, size) is reached
	CodeFailed       Code = "failed"       // the app or its build failed, not Fluxgate
	CodeInternal     Code = "internal"     // a bug or a broken engine
)

// Violation is one thing wrong with one field of the input.
type Violation struct {
	Field  string `json:"field" doc:"The field, as the user wrote it, e.g. scale.max"`
	Value  string `json:"value" doc:"What was given; empty where the value is a secret or missing"`
	Limit  string `json:"limit" doc:"The rule that the value breaks"`
	Remedy string `json:"remedy" doc:"What to write instead"`
}

// String is one line for a terminal.
func (v Violation) String() string {
	var b strings.Builder
	b.WriteString(v.Field)
	if v.Value != "" {
		fmt.Fprintf(&b, " = %s", v.Value)
	}
	fmt.Fprintf(&b, ": %s", v.Limit)
	if v.Remedy != "" {
		fmt.Fprintf(&b, "; %s", v.Remedy)
	}
	return b.String()
}

// Error is the one error type that crosses package borders with a meaning.
// Message is safe to show to a user; the wrapped cause is for the operator.
type Error struct {
	Code       Code
	Message    string
	Violations []Violation
	RetryAfter time.Duration // for CodeUnavailable and CodeExhausted; 0 means unknown
	cause      error
}

// Errorf makes an Error. A %w verb in format sets the cause; the formatted
// text, cause included, is the message.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), cause: errors.Unwrap(err)}
}

// Invalid makes a CodeInvalid error that lists every violation, or returns
// nil where there is none.
func Invalid(what string, violations []Violation) error {
	if len(violations) == 0 {
		return nil
	}
	return &Error{Code: CodeInvalid, Message: what + " is not valid", Violations: violations}
}

// Error is the message and, one a line, every violation.
func (e *Error) Error() string {
	if len(e.Violations) == 0 {
		return e.Message
	}
	lines := make([]string, 0, len(e.Violations)+1)
	lines = append(lines, e.Message+":")
	for _, v := range e.Violations {
		lines = append(lines, "  "+v.String())
	}
	return strings.Join(lines, "\n")
}

// Unwrap is the operator's cause.
func (e *Error) Unwrap() error { return e.cause }

// CodeOf is the code of the first Error in err's chain, or CodeInternal.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}

// FullError is the cause of a CodeExhausted error: by what the store has on
// record, others filled the node that was chosen.
type FullError struct {
	Node     string
	Reserved Bytes
	Capacity Bytes
}

func (e *FullError) Error() string {
	return fmt.Sprintf("node %s is full: %.2f of %.2f GB are reserved", e.Node, float64(e.Reserved)/(1<<30), float64(e.Capacity)/(1<<30))
}
