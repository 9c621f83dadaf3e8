package main

import "testing"

func TestLSNFlag(t *testing.T) {
	for text, want := range map[string]string{
		"16/B374D848":               "16/B374D848",
		"0/0":                       "",
		"ffffffff/1":                "FFFFFFFF/1",
		"0000000001507C60-00000001": "0/1507C60",
		"0000001601507C60":          "16/1507C60",
	} {
		var f lsnFlag
		if err := f.Set(text); err != nil || f.String() != want {
			t.Errorf("%q: %s, %v", text, f.String(), err)
		}
	}
	for _, text := range []string{"", "16", "16/", "/16", "16/B374D848x", "16/B374D8480", "0x16/1", "1/1/1", "0000000001507c60", "-1/1"} {
		var f lsnFlag
		if err := f.Set(text); err == nil {
			t.Errorf("%q is taken for %s", text, f.String())
		}
	}
}
