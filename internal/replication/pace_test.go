package replication

import "testing"

func TestRestEndsWhenTheWindowIsClosed(t *testing.T) {
	for _, test := range []struct {
		name  string
		holds []int // what the socket holds each time it is looked at
		looks int
	}{
		{"the window is closed", []int{10, full, full + 1}, 2},
		{"more and more arrives", []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, int(restFor / restSlice)},
		{"the server does not get to it", []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, int(restFor / restSlice)},
	} {
		looks := 0
		p := pace{bulk: true, little: true, readable: func() int {
			looks++
			return test.holds[looks-1]
		}}
		p.rest()
		if looks != test.looks {
			t.Errorf("%s: looked %d times, want %d", test.name, looks, test.looks)
		}
		looks = 0
		p.bulk = false
		p.rest()
		p.bulk, p.little = true, false
		p.rest()
		if looks != 0 {
			t.Errorf("%s: rested in light traffic, or after a read of plenty", test.name)
		}
	}
}
