package state

import (
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/fluxgate/fluxgate/router"
)

// A block is sixty rows of recorded traffic: the seconds of a minute, or the
// minutes of an hour. Silent rows cost a bit; of the others, each column is
// stored as its least value and, bit-packed, by how much every row exceeds it.
// Traffic that is steady is small for that, and no traffic makes a block longer
// than maxBlock.
//
//	kind     1 byte
//	number   uvarint: which minute or hour since 1970
//	rows     8 bytes, little-endian: bit i says that row i is not silent
//	columns  each: varint least value, 1 byte width in bits, packed rows
type blockKind byte

const (
	blockSeconds blockKind = 1
	blockMinutes blockKind = 2
)

const (
	blockRows = 60
	// maxBlock is the most bytes that a block has.
	maxBlock = 1 + binary.MaxVarintLen64 + 8 + 6*(binary.MaxVarintLen64+1+blockRows*8)
)

var errBlock = errors.New("the block is damaged")

// columns are how many numbers a row of the kind has.
func (k blockKind) columns() int {
	switch k {
	case blockSeconds:
		return 5
	case blockMinutes:
		return 6
	}
	return 0
}

// numbers are what is stored of a row. Answers are told by how many more they
// are than requests, which is near 0.
func numbers(m router.Minute) [6]int64 {
	return [6]int64{m.Requests, m.Done - m.Requests, int64(m.Pace()), m.InFlight, m.Queued, m.Peak}
}

func fromNumbers(n [6]int64) (router.Minute, bool) {
	m := router.Minute{Sample: router.Sample{Requests: n[0], Done: n[0] + n[1], InFlight: n[3], Queued: n[4]}, Peak: n[5]}
	p := router.Pace(n[2])
	m.Service = p.Service(m.Done)
	return m, p.Valid()
}

// encodeBlock is the stored form of at most 60 rows; of seconds, without Peak.
func encodeBlock(kind blockKind, number int64, rows []router.Minute) []byte {
	var active uint64
	var table [][6]int64
	for i, m := range rows[:min(len(rows), blockRows)] {
		if m.Sample != (router.Sample{}) {
			active |= 1 << i
			table = append(table, numbers(m))
		}
	}
	b := binary.AppendUvarint([]byte{byte(kind)}, uint64(number))
	b = binary.LittleEndian.AppendUint64(b, active)
	for c := range kind.columns() {
		b = appendColumn(b, table, c)
	}
	return b
}

// appendColumn adds one column of a table.
func appendColumn(b []byte, table [][6]int64, c int) []byte {
	if len(table) == 0 {
		return b
	}
	least, most := table[0][c], table[0][c]
	for _, row := range table {
		least, most = min(least, row[c]), max(most, row[c])
	}
	width := bits.Len64(uint64(most) - uint64(least))
	b = append(binary.AppendVarint(b, least), byte(width))
	var packed uint64
	filled := 0
	for _, row := range table {
		over := uint64(row[c]) - uint64(least)
		for left := width; left > 0; {
			n := min(left, 64-filled)
			packed |= over & (1<<n - 1) << filled
			over >>= n
			filled, left = filled+n, left-n
			if filled == 64 {
				b = binary.LittleEndian.AppendUint64(b, packed)
				packed, filled = 0, 0
			}
		}
	}
	for ; filled > 0; filled -= 8 {
		b = append(b, byte(packed))
		packed >>= 8
	}
	return b
}

// decodeBlock reads what encodeBlock wrote. What is not a whole block is an
// error.
func decodeBlock(b []byte) (kind blockKind, number int64, rows [blockRows]router.Minute, err error) {
	if len(b) == 0 || blockKind(b[0]).columns() == 0 {
		return 0, 0, rows, errBlock
	}
	kind = blockKind(b[0])
	n, size := binary.Uvarint(b[1:])
	if size <= 0 || len(b) < 1+size+8 {
		return 0, 0, rows, errBlock
	}
	b = b[1+size:]
	active := binary.LittleEndian.Uint64(b)
	if b = b[8:]; active>>blockRows != 0 {
		return 0, 0, rows, errBlock
	}
	table := make([][6]int64, bits.OnesCount64(active))
	for c := 0; c < kind.columns() && len(table) > 0; c++ {
		if b, err = readColumn(b, table, c); err != nil {
			return 0, 0, rows, err
		}
	}
	if len(b) > 0 {
		return 0, 0, rows, errBlock
	}
	for _, row := range table {
		i := bits.TrailingZeros64(active)
		active &^= 1 << i
		var ok bool
		if rows[i], ok = fromNumbers(row); !ok {
			return 0, 0, rows, errBlock
		}
	}
	return kind, int64(n), rows, nil
}

// readColumn reads one column into a table and returns what follows it.
func readColumn(b []byte, table [][6]int64, c int) ([]byte, error) {
	least, size := binary.Varint(b)
	if size <= 0 || len(b) <= size || b[size] > 64 {
		return nil, errBlock
	}
	width := int(b[size])
	b = b[size+1:]
	length := (len(table)*width + 7) / 8
	if len(b) < length {
		return nil, errBlock
	}
	for i := range table {
		var over uint64
		for k := range width {
			at := i*width + k
			over |= uint64(b[at/8]>>(at%8)&1) << k
		}
		table[i][c] = int64(uint64(least) + over)
	}
	return b[length:], nil
}
