// Package render turns what the API says into text for people.
//
// Nothing that a step wrote reaches a terminal unchanged here: control
// characters and escape sequences are made visible, so that a step cannot
// move the cursor, set the title or draw over another step's lines.
package render
