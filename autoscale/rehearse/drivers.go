package rehearse

// Fixed is a driver that keeps N instances, ready before the trace begins.
type Fixed int

// Tick implements Driver.
func (n Fixed) Tick(Observation) []Order { return []Order{{Desired: int(n)}} }

// Activate implements Driver.
func (n Fixed) Activate(Observation) Order { return Order{Desired: int(n)} }

// Timing is that of the reference.
func (n Fixed) Timing() Timing { return Timing{TickMS: 2000, FirstMS: 2000, Ready: int(n)} }

// Replay is a driver that repeats what another one ordered.
type Replay struct{ Rows []Row }

// Tick implements Driver: all rows that are due are carried out in order.
func (r *Replay) Tick(o Observation) []Order {
	var due []Order
	for len(r.Rows) > 0 && r.Rows[0].MS <= o.MS {
		due = append(due, Order{Desired: r.Rows[0].Desired, Frozen: r.Rows[0].Frozen})
		r.Rows = r.Rows[1:]
	}
	return due
}

// Activate implements Driver: one instance, until the next row.
func (r *Replay) Activate(Observation) Order { return Order{Desired: 1, Hold: true} }

// Timing is that of the reference.
func (r *Replay) Timing() Timing { return Timing{TickMS: stepMS} }
