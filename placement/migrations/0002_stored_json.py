from django.db import migrations

import placement.models.decisions


class Migration(migrations.Migration):
    dependencies = [("placement", "0001_initial")]

    operations = [
        migrations.AlterField(
            model_name="decision",
            name="spec",
            field=placement.models.decisions.StoredJSONField(),
        ),
        migrations.AlterField(
            model_name="decision",
            name="summary",
            field=placement.models.decisions.StoredJSONField(
                help_text="Losses per filter, best hosts with scores, nearest miss."
            ),
        ),
    ]
